/**
 * Two videos in one frame: played in step, a slider between them, or their difference.
 * Keys on the video: space plays and stops, left and right go one frame, home and end to the
 * first and last, d shows the difference.
 */

import { div } from "../ui/dom.js";
import { say } from "../ui/words.js";

/** How often the difference is added to itself: 2 ** this times as bright. */
const DOUBLINGS = 2;

/** Room for the controls below the video, in units of the graph. */
export const CONTROLS_HEIGHT = 64;

/**
 * @param {number} index
 * @param {number} count
 */
export const wrapped = (index, count) => ((index % count) + count) % count;

/**
 * @param {string} text
 * @param {string} label
 * @param {() => void} action
 */
function button(text, label, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.setAttribute("aria-label", label);
  element.title = label;
  element.addEventListener("click", action);
  return element;
}

/**
 * @param {string} label
 * @param {number} max
 * @param {(value: number) => void} action
 */
function slider(label, max, action) {
  const element = document.createElement("input");
  element.type = "range";
  element.min = "0";
  element.max = `${max}`;
  element.setAttribute("aria-label", label);
  element.title = label;
  element.addEventListener("input", () => action(Number(element.value)));
  // The graph must not take a drag of the slider for one of the node.
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  return element;
}

export class ComparePlayer {
  /**
   * @param {import("./frames.js").Frames} a
   * @param {import("./frames.js").Frames} b
   * @param {number} fps
   */
  constructor(a, b, fps) {
    this.videos = [a, b];
    this.fps = fps;
    this.count = Math.max(a.count, b.count);
    this.index = 0;
    this.wipe = 0.5;
    this.difference = false;
    this.closed = false;
    /** @type {any} */
    this.timer = null;
    this.canvas = document.createElement("canvas");
    this.canvas.width = a.width;
    this.canvas.height = a.height;
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.playButton = button("\u25B6", say("play"), () => this.toggle());
    this.differenceButton = button(say("difference"), say("differenceAmplified"), () => this.flip());
    this.wipeSlider = slider(say("wipe"), 1000, (value) => {
      this.wipe = value / 1000;
      this.draw();
    });
    this.wipeSlider.value = "500";
    this.timeSlider = slider(say("frame"), this.count - 1, (value) => this.go(value));
    this.label = div("wanduet-compare-frame");
    this.element = div("wanduet-compare", this.canvas, this.wipeSlider,
      div("wanduet-compare-row", this.playButton,
        button("\u2039", say("frameBack"), () => this.step(-1)),
        button("\u203A", say("frameForward"), () => this.step(1)),
        this.timeSlider, this.label, this.differenceButton));
    this.go(0);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    /** @type {Record<string, () => void>} */
    const actions = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      Home: () => this.go(0),
      End: () => this.go(this.count - 1),
      d: () => this.flip(),
    };
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** @param {number} by */
  step(by) {
    this.stop();
    this.go(this.index + by);
  }

  /** @param {number} index */
  go(index) {
    this.index = wrapped(index, this.count);
    this.timeSlider.value = `${this.index}`;
    this.label.textContent = `${this.index + 1} / ${this.count}`;
    return this.draw();
  }

  toggle() {
    if (this.timer === null) this.play();
    else this.stop();
  }

  play() {
    this.show(true);
    const began = performance.now() - (this.index / this.fps) * 1000;
    const tick = async () => {
      if (!this.element.isConnected) return this.stop();
      const due = Math.floor(((performance.now() - began) / 1000) * this.fps);
      if (wrapped(due, this.count) !== this.index) await this.go(due);
      if (this.timer !== null) this.timer = setTimeout(tick, 500 / this.fps);
    };
    this.timer = setTimeout(tick, 0);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.show(false);
  }

  /** @param {boolean} playing */
  show(playing) {
    this.playButton.textContent = playing ? "\u23F8" : "\u25B6";
    this.playButton.setAttribute("aria-label", say(playing ? "stop" : "play"));
  }

  flip() {
    this.difference = !this.difference;
    this.differenceButton.setAttribute("aria-pressed", `${this.difference}`);
    this.draw();
  }

  async draw() {
    const wanted = this.index;
    const [a, b] = await Promise.all(this.videos.map((video) => video.get(wanted)));
    if (this.closed || wanted !== this.index) return;
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.globalCompositeOperation = "source-over";
    if (this.difference) {
      context.drawImage(a, 0, 0, width, height);
      context.globalCompositeOperation = "difference";
      context.drawImage(b, 0, 0, width, height);
      context.globalCompositeOperation = "lighter";
      for (let i = 0; i < DOUBLINGS; i += 1) context.drawImage(this.canvas, 0, 0);
    } else {
      const edge = Math.round(this.wipe * width);
      context.drawImage(b, 0, 0, width, height);
      context.save();
      context.beginPath();
      context.rect(0, 0, edge, height);
      context.clip();
      context.drawImage(a, 0, 0, width, height);
      context.restore();
      context.fillStyle = "#fff";
      context.fillRect(edge - 1, 0, 2, height);
    }
    const percent = Math.round(this.wipe * 100);
    const what = this.difference ? say("showingDifference") : say("showingWipe", { percent });
    this.canvas.setAttribute("aria-label",
      say("frameShowing", { frame: wanted + 1, count: this.count, what }));
  }

  close() {
    this.closed = true;
    this.stop();
    for (const video of this.videos) video.close();
  }
}
