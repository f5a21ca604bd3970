/** The panel on the sampler node: numbers, drawing, and one line that explains them. */

import { describe } from "../run/progress.js";
import { div, span, svg } from "../ui/dom.js";
import { say } from "../ui/words.js";
import { drawPlan, makeScale } from "./draw.js";
import { Answer, FALLBACK, planQuery, resolveSettings } from "./plan_query.js";

/** Height of the panel in units of the graph. */
export const PANEL_HEIGHT = 128;

/** Plans that are remembered, so that a slider moved back asks nothing. */
const KNOWN_PLANS = 64;

/** A model file may be written anew, so only the one shown is remembered. */
const KNOWN_MODELS = 1;

/** @param {number} value */
const short = (value) => String(Number(value.toFixed(4)));

export class SchedulePanel {
  /**
   * @param {(path: string) => Promise<any>} getJson
   * @param {(reading: any, settings: any) => void} onSettings called with what a run would take
   */
  constructor(getJson, onSettings = () => {}) {
    this.onSettings = onSettings;
    const redraw = () => this.render();
    this.model = new Answer(getJson, redraw, KNOWN_MODELS);
    this.answer = new Answer(getJson, redraw, KNOWN_PLANS);
    /** @type {import("./plan_query.js").Reading | null} */
    this.reading = null;
    /** @type {import("./plan_query.js").Settings | null} */
    this.settings = null;
    /** @type {import("./plan_query.js").Plan | null} */
    this.plan = null;
    /** @type {import("./plan_query.js").Official | null} what open widgets mean, if it is known */
    this.automatic = null;
    /** The model file that it is for. */
    this.automaticFor = "";
    this.status = "";
    /** What the note says of the step under the pointer. */
    this.pointed = "";
    /** @type {import("../run/progress.js").Progress | null} of the run that goes on */
    this.progress = null;
    this.split = div("wanduet-split");
    this.values = div("wanduet-values");
    this.plot = div("wanduet-plot");
    this.note = div("wanduet-note");
    this.element = div("wanduet-schedule", div("wanduet-head", this.split, this.values),
      this.plot, this.note);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.unpoint());
    this.resizes = new ResizeObserver(() => this.draw());
  }

  /** Call when the node enters a graph. */
  start() {
    this.resizes.observe(this.plot);
  }

  /** Call when the node leaves its graph. */
  stop() {
    this.resizes.disconnect();
    this.model.stop();
    this.answer.stop();
  }

  /** @param {import("./plan_query.js").Reading} reading */
  update(reading) {
    this.reading = reading;
    this.render();
  }

  /**
   * Takes what the server says of the model with its LoRAs and of the preset.
   * @param {any} values
   */
  take(values) {
    const file = JSON.stringify(this.reading?.file);
    const same = JSON.stringify(values) === JSON.stringify(this.automatic);
    if (same && file === this.automaticFor) return;
    this.automatic = values;
    this.automaticFor = file;
    this.render();
  }

  render() {
    if (!this.reading) return;
    const model = this.reading.file && this.model.ask("/wanduet/describe", this.reading.file);
    if (this.reading.file && !model) return this.writeNote(say("readingFile"));
    const known = model && !model.error ? model : FALLBACK;
    const current = JSON.stringify(this.reading.file) === this.automaticFor;
    const settings = resolveSettings(this.reading, current ? { ...known, ...this.automatic } : known);
    const plan = this.answer.ask("/wanduet/schedule", planQuery(settings));
    if (!plan) return;
    const failure = model?.error ?? plan.error;
    if (plan.error) return this.writeNote((this.status = failure));
    this.settings = settings;
    this.plan = plan;
    this.onSettings(this.reading, settings);
    this.status = failure ?? explain(this.reading, settings, plan, model);
    this.writeHead();
    this.writeNote();
    this.draw();
  }

  writeHead() {
    const { plan, settings } = this;
    if (!plan || !settings) return;
    const { boundary, shift } = settings;
    const steps = plan.timesteps.length;
    const parts = boundary === null
      ? [span("wanduet-only", say(steps === 1 ? "oneStep" : "steps", { steps }))]
      : [
        span("wanduet-high", say("high", { steps: plan.high })), " | ",
        span("wanduet-low", say("low", { steps: plan.low })),
      ];
    if (plan.start) parts.unshift(span("wanduet-start", say("first", { steps: plan.start })), " | ");
    this.split.replaceChildren(...parts);
    const spacing = settings.levels ? say("ownLevels") : `shift ${short(shift)}`;
    this.values.textContent = boundary === null
      ? say("oneExpert", { spacing })
      : say("twoExperts", { spacing, boundary: short(boundary) });
  }

  /**
   * Shows how far the run is; null when it is over.
   * @param {import("../run/progress.js").Progress | null} progress
   */
  advance(progress) {
    this.progress = progress;
    this.writeNote();
    this.mark();
  }

  /** Marks what has been run on the plot. */
  mark() {
    const drawing = this.plot.firstElementChild;
    drawing?.querySelector(".wanduet-done")?.remove();
    if (!this.plan || !drawing || !this.progress) return;
    const { clientWidth: width, clientHeight: height } = this.plot;
    const scale = makeScale(width, height, this.plan.full.length - 1);
    const left = scale.x(this.plan.first);
    const x = scale.x(this.plan.first + this.progress.step);
    drawing.append(svg("g", { class: "wanduet-done" },
      svg("rect", { x: left, y: scale.y(1), width: x - left, height: scale.y(0) - scale.y(1) }),
      svg("line", { x1: x, x2: x, y1: scale.y(1), y2: scale.y(0) })));
  }

  writeNote(text = this.pointed || (this.progress ? describe(this.progress) : this.status)) {
    this.note.textContent = text;
    this.note.title = text;
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!this.plan || !this.settings || !width || !height) return;
    this.plot.replaceChildren(drawPlan(this.plan, this.settings, width, height));
    this.mark();
  }

  /**
   * Reads out the step under the pointer.
   * @param {PointerEvent} event
   */
  point(event) {
    const drawing = this.plot.firstElementChild;
    if (!this.plan || !this.settings || !drawing) return;
    const { clientWidth: width, clientHeight: height } = this.plot;
    const box = this.plot.getBoundingClientRect();
    const scale = makeScale(width, height, this.plan.full.length - 1);
    const step = scale.step(((event.clientX - box.left) / box.width) * width);
    const index = step - this.plan.first;
    if (!(index in this.plan.timesteps)) return this.unpoint();
    drawing.querySelector(".wanduet-cursor")?.remove();
    const x = scale.x(step);
    drawing.append(svg("line", {
      class: "wanduet-cursor", x1: x, x2: x, y1: scale.y(1), y2: scale.y(0),
    }));
    const { sigmas, timesteps, start = 0, high } = this.plan;
    const expert = say(index < start + high ? "byHigh" : "byLow");
    const alone = this.settings.boundary === null ? "" : expert;
    const sigma = sigmas[index].toFixed(4);
    this.pointed = say("stepAt", { step: step + 1, sigma, timestep: timesteps[index] }) +
      (index < start ? say("byFirst") : alone);
    this.writeNote();
  }

  unpoint() {
    this.pointed = "";
    this.plot.querySelector(".wanduet-cursor")?.remove();
    this.writeNote();
  }
}

/**
 * The line below the drawing: what is unknown or odd first, else what the model is.
 * @param {import("./plan_query.js").Reading} reading
 * @param {import("./plan_query.js").Settings} settings
 * @param {import("./plan_query.js").Plan} plan
 * @param {any} model
 */
function explain({ connected, file }, settings, plan, model) {
  if (!connected) return say("connectModel");
  if (!file) return say("noFile");
  if (settings.linked.length) return say("knownLater", { names: settings.linked.join(", ") });
  if (!plan.timesteps.length) return say("noStep");
  const whole = plan.sigmas.length === plan.full.length && settings.boundary !== null;
  if (whole && !plan.high && !plan.start) return say("noHigh");
  if (whole && !plan.low) return say("noLow");
  if (settings.boundary !== null && model.expert === "low") {
    return say("swapped");
  }
  return `${model.label}.`;
}
