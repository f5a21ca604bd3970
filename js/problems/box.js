/** The sentences at a node: a box below its widgets, there only while something is wrong. */

import { div } from "../ui/dom.js";

const LINE = 15;
const PADDING = 14;
/** Width of a character, on average. */
const CHARACTER = 6;

/** @param {import("./problems.js").Problem[]} problems */
export function makeBox(problems) {
  const box = div("wanduet-problems", ...problems.map(({ message }) => div("", message)));
  box.setAttribute("role", "alert");
  return box;
}

/**
 * Height that the sentences take at a width, in units of the graph.
 * @param {import("./problems.js").Problem[]} problems
 * @param {number} width
 */
export function heightOf(problems, width) {
  const perLine = Math.max(10, Math.floor((width - 40) / CHARACTER));
  const lines = problems.map(({ message }) => Math.ceil(message.length / perLine));
  return lines.reduce((sum, count) => sum + count * LINE, PADDING + 4 * (problems.length - 1));
}
