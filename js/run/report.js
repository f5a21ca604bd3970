/** What a run took: it stays at the node until the next one, and can be copied. */

import { div } from "../ui/dom.js";
import { say } from "../ui/words.js";

const LINE = 14;
const AROUND = 14;
const BUTTON = 30;
const CHARACTER = 5.8;

/**
 * Height that a report takes at a width, in units of the graph.
 * @param {string} text
 * @param {number} width
 */
export const heightOfReport = (text, width) => heightOfText(text, width) + BUTTON;

/**
 * Height that lines take at a width, in units of the graph.
 * @param {string} text
 * @param {number} width
 */
export function heightOfText(text, width) {
  const perLine = Math.max(10, Math.floor((width - 40) / CHARACTER));
  const lines = text.split("\n").map((line) => Math.max(1, Math.ceil(line.length / perLine)));
  return lines.reduce((sum, count) => sum + count * LINE, AROUND);
}

/**
 * @param {string} text
 * @param {(text: string) => Promise<void>} copy
 */
export function makeReport(text, copy) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = say("copyReport");
  button.addEventListener("click", async () => {
    await copy(text);
    button.textContent = say("copied");
    setTimeout(() => (button.textContent = say("copyReport")), 1500);
  });
  const lines = div("wanduet-report-text");
  lines.textContent = text;
  lines.tabIndex = 0;
  const box = div("wanduet-report", lines, button);
  box.setAttribute("aria-label", say("reportOfRun"));
  return box;
}

/** The last report of each node, by the workflow that was open and the node's place in it. */
export class KeptReports {
  /** @param {() => any} openWorkflow */
  constructor(openWorkflow) {
    this.openWorkflow = openWorkflow;
    /** @type {WeakMap<any, Map<string, string>>} */
    this.byWorkflow = new WeakMap();
    /** Of workflows that were not open when their run was over. @type {Map<string, string>} */
    this.elsewhere = new Map();
  }

  /**
   * @param {string} workflow id
   * @param {string} id of the node in the run
   * @param {string} report
   */
  keepElsewhere(workflow, id, report) {
    this.elsewhere.set(`${workflow} ${id}`, report);
  }

  /**
   * Gives nodes of the open workflow the reports that came while another one was open.
   * @param {string | undefined} workflow id of the open one
   * @param {(id: string) => any} findNode
   */
  fetch(workflow, findNode) {
    for (const [place, report] of this.elsewhere) {
      const [of, id] = place.split(" ");
      const node = of === workflow && findNode(id);
      if (!node) continue;
      this.elsewhere.delete(place);
      this.keep(node, report);
    }
  }

  /**
   * @param {any} node
   * @param {string} report
   */
  keep(node, report) {
    const workflow = this.openWorkflow();
    if (!workflow) return;
    if (!this.byWorkflow.has(workflow)) this.byWorkflow.set(workflow, new Map());
    this.byWorkflow.get(workflow)?.set(placeOf(node), report);
  }

  /**
   * @param {any} node
   * @returns {string | undefined}
   */
  of(node) {
    const workflow = this.openWorkflow();
    return workflow && this.byWorkflow.get(workflow)?.get(placeOf(node));
  }
}

/** @param {any} node */
const placeOf = (node) => `${node.graph?.id}:${node.id}`;
