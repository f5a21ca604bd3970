/** Panels below a node's widgets, and how high they make it with either renderer. */

import { drawnAsHtml, showsAdvanced } from "./comfy.js";
import { hooked } from "./node_hooks.js";
import { isConnected } from "./read_graph.js";

/** @typedef {any} Node a LiteGraph node */

/** Around an element that is a widget. */
const MARGIN = 8;

/** Below each of a node's widgets. */
const GAP = 4;

/**
 * Has computeSize() leave out inputs that Nodes 2.0 hides. The editor makes every node that it loads,
 * undo included, as high as that.
 * @param {Node} node that was just made
 */
export function leaveOutHiddenInputs(node) {
  const { computeSize } = node;
  /** @param {...any} args */
  node.computeSize = function (...args) {
    const size = computeSize.apply(this, args);
    size[1] -= hiddenInputs(this) * (/** @type {any} */ (window).LiteGraph.NODE_WIDGET_HEIGHT + GAP);
    return size;
  };
}

/**
 * How many inputs computeSize() counts that are not drawn.
 * @param {Node} node
 */
function hiddenInputs(node) {
  if (!drawnAsHtml() || node.collapsed || node.showAdvanced || showsAdvanced()) return 0;
  return (node.widgets ?? []).filter((/** @type {any} */ { name, options }) =>
    options?.advanced && !(node.graph && isConnected(node, name))).length;
}

/**
 * Height of a node that holds just what it has. computeSize() leaves out a collapsed one's widgets.
 * @param {Node} node
 */
function openHeight(node) {
  // Hides the getter of its class. A flag that changes would be told to the editor.
  Object.defineProperty(node, "collapsed", { value: false, configurable: true });
  try {
    return node.computeSize()[1];
  } finally {
    delete node.collapsed;
  }
}

/**
 * Height below which a node is not set. Nodes 2.0 never draws it lower than what it holds.
 * @param {Node} node
 */
const lowestOf = (node) => (drawnAsHtml() ? 0 : openHeight(node));

/**
 * Height of a node after a panel was added.
 * @param {Node} node
 * @param {number} height of the panel
 * @param {boolean} comesAndGoes so that the node gets just as much higher in Nodes 2.0
 */
function heightWith(node, height, comesAndGoes) {
  if (drawnAsHtml() && comesAndGoes) return node.size[1] + height + GAP;
  return Math.max(node.size[1], openHeight(node));
}

/**
 * Adds an element below the node's widgets. It holds no value, so it is left out of saved
 * workflows and prompts.
 * @param {Node} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {{ minWidth: number, height: number, around?: number }} size around: room above and below,
 *   of a panel that comes and goes
 */
export function addPanel(node, name, element, { minWidth, height, around = 0 }) {
  element.style.setProperty("--comfy-widget-min-height", `${height}px`);
  const options = {
    serialize: false,
    getMinHeight: () => height + around,
    margin: MARGIN,
    comesAndGoes: around > 0,
  };
  const widget = hooked(node, () => node.addDOMWidget(name, name, element, options));
  widget.serialize = false;
  const width = Math.max(node.size[0], node.computeSize()[0], minWidth);
  node.setSize([width, heightWith(node, height, around > 0)]);
  return widget;
}

/**
 * Height of a node without one of its panels that come and go.
 * @param {Node} node
 * @param {number} height with it
 * @param {number} brought by it; a script may have set the node lower since
 */
export function heightWithout(node, height, brought) {
  const passing = (node.widgets ?? []).filter((/** @type {any} */ one) => one.options?.comesAndGoes);
  const room = passing.reduce(
    (/** @type {number} */ sum, /** @type {any} */ one) => sum + one.options.getMinHeight() + GAP, 0);
  return Math.max(height - brought, Math.min(height, openHeight(node) - room));
}

/**
 * Takes back the height that a panel brought which is gone.
 * @param {Node} node
 * @param {number} brought
 */
export function giveBack(node, brought) {
  const height = heightWithout(node, node.size[1], brought);
  node.setSize([node.size[0], Math.max(lowestOf(node), height)]);
}
