/** Asks the server what is wrong with the graph while it is edited, and shows it at the nodes. */

import { byNode, joined, timeToRead } from "./problems.js";

/** Milliseconds without a change before the server is asked. */
const PAUSE = 250;

/** Milliseconds until a server that did not answer is asked again. */
const AGAIN = 3000;

/**
 * @typedef {object} Editor what the watcher needs of the graph editor
 * @property {() => { prompt: Record<string, any>, nodes: any[] }} readPrompt
 * @property {(id: string) => any} findNode by the id that a run uses
 * @property {(path: string, body: any) => Promise<any>} postJson
 * @property {(node: any, problems: import("./problems.js").Problem[]) => void} show
 * @property {(node: any, lines: string[]) => void} plan shows what a run of a sampler would be
 * @property {(node: any, values: any) => void} [automatic] takes what a sampler's open widgets mean
 * @property {(title: string, text: string, life: number) => void} toast
 */

export class ProblemWatcher {
  /** @param {Editor} editor */
  constructor(editor) {
    this.editor = editor;
    this.asked = "";
    /** @type {any[]} which it was asked about */
    this.nodes = [];
    this.unanswered = true;
    /** @type {Map<any, import("./problems.js").Problem[]>} */
    this.editing = new Map();
    /** @type {Map<any, import("./problems.js").Problem[]>} */
    this.running = new Map();
    /** @type {Set<any>} */
    this.shown = new Set();
    /** @type {any} */
    this.timer = null;
  }

  /** Call after anything that may have changed the graph. */
  changed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), PAUSE);
  }

  async look() {
    const { prompt, nodes } = this.editor.readPrompt();
    const asked = JSON.stringify(prompt);
    // The same graph may be of other nodes, such as those that were in a subgraph.
    const known = asked === this.asked && nodes.every((node, i) => node === this.nodes[i]);
    if (known && !this.unanswered) return;
    if (asked !== this.asked && this.asked) this.running = new Map();
    this.asked = asked;
    this.nodes = nodes;
    this.unanswered = false;
    const answer = nodes.length
      ? await this.editor.postJson("/wanduet/check", { prompt }).catch(() => null)
      : { problems: [] };
    if (nodes !== this.nodes) return;
    if (JSON.stringify(this.editor.readPrompt().prompt) !== asked) {
      // It is asked about after a pause, in which it may change back to what has no answer.
      this.unanswered = true;
      return this.changed();
    }
    if (answer === null) {
      this.unanswered = true;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.look(), AGAIN);
      return;
    }
    for (const [id, lines] of Object.entries(answer.plans ?? {})) {
      this.editor.plan(nodes[Number(id)], lines);
    }
    for (const [id, values] of Object.entries(answer.automatic ?? {})) {
      this.editor.automatic?.(nodes[Number(id)], values);
    }
    this.editing = byNode(answer.problems ?? [], (id) => nodes[Number(id)]);
    this.render();
  }

  /**
   * A run begins: what the last one found is over.
   * @param {boolean} isHere whether it is of the workflow that is open
   */
  started(isHere = true) {
    if (!isHere) return;
    this.running = new Map();
    this.render();
  }

  /** A run is over, which the next one's time follows from: the same graph is asked about again. */
  ran() {
    this.unanswered = true;
    this.changed();
  }

  /**
   * A prompt was refused, or a node failed.
   * @param {{ node_id: string, input: string, message: string }[]} problems
   * @param {boolean} isHere whether it is of the workflow that is open; only the toast tells others
   */
  failed(problems, isHere = true) {
    const find = (/** @type {string} */ id) => (isHere ? this.editor.findNode(id) : undefined);
    if (isHere) this.running = byNode(problems, find);
    for (const text of new Set(problems.map((problem) => problem.message))) {
      const { node_id: id, input } = problems.find((one) => one.message === text) ?? problems[0];
      const title = find(id)?.title ?? "Wan 2.2";
      this.editor.toast(input ? `${title}: ${input}` : title, text, timeToRead(text));
    }
    this.render();
  }

  /** @param {any} node that has left the graph */
  forget(node) {
    // The same graph may come back in new nodes, as undo does.
    this.unanswered = true;
    for (const where of [this.editing, this.running, this.shown]) where.delete(node);
  }

  render() {
    const wrong = new Set([...this.editing.keys(), ...this.running.keys()]);
    for (const node of new Set([...wrong, ...this.shown])) {
      this.editor.show(node, joined(this.editing.get(node) ?? [], this.running.get(node) ?? []));
    }
    this.shown = wrong;
  }
}
