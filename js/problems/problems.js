/**
 * What is known to be wrong, by node: from editing, and from the last run until something changes.
 *
 * @typedef {object} Problem
 * @property {string} input name of the one input to change; empty if it is not known
 * @property {string} message
 */

/** How long a sentence may be looked at, in ms: as fast as one reads, and twice. */
const PER_CHARACTER = 120;
const SHORTEST = 8000;

/**
 * @param {string} text
 * @returns {number} milliseconds
 */
export const timeToRead = (text) => Math.max(SHORTEST, text.length * PER_CHARACTER);

/**
 * Groups what the server says by node.
 * @param {{ node_id: string, input: string, message: string }[]} problems
 * @param {(id: string) => any} findNode
 * @returns {Map<any, Problem[]>}
 */
export function byNode(problems, findNode) {
  const found = new Map();
  for (const { node_id: id, input, message } of problems) {
    const node = findNode(id);
    if (!node) continue;
    const list = found.get(node) ?? [];
    if (!list.some((/** @type {Problem} */ one) => one.message === message)) {
      found.set(node, [...list, { input, message }]);
    }
  }
  return found;
}

/**
 * Joins what editing and a run found out, each sentence once.
 * @param {Problem[]} editing
 * @param {Problem[]} running
 * @returns {Problem[]}
 */
export function joined(editing, running) {
  const known = editing.map((problem) => problem.message);
  return [...editing, ...running.filter((problem) => !known.includes(problem.message))];
}
