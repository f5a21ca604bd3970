/** Panels below a node's widgets, and how high they make it with either renderer. */

import { drawnAsHtml } from "./comfy.js";
import { after, hooked, removePanel } from "./node_hooks.js";

/** @typedef {any} Node a LiteGraph node */

/** Around an element that is a widget. */
const MARGIN = 8;

/** Below each of a node's widgets. */
const GAP = 4;

/**
 * Heights of nodes with panels that come and go: what a change of these set last, and what it is without.
 * @type {WeakMap<Node, { set: number, without: number }>}
 */
const heights = new WeakMap();

/**
 * Leaves no room in Nodes 2.0 for inputs that it hides until they are asked for, and never draws a node
 * lower than what it shows. The editor makes a new node as high as computeSize() says, and one that it
 * loads, undo included, at least; on the canvas all inputs show, and need that height.
 * @param {Node} node that was just made
 */
export function leaveOutHiddenInputs(node) {
  const { computeSize } = node;
  /** @param {...any} args */
  node.computeSize = function (...args) {
    const size = computeSize.apply(this, args);
    if (!this.collapsed) size[1] -= hiddenRoom(this);
    return size;
  };
  const made = () => {
    if (node.size[1] === openHeight(node) + hiddenRoom(node)) fitHtml(node);
  };
  made();
  after(node, "onConfigure", made);
}

/**
 * Takes away what the canvas needs more than Nodes 2.0, of a node that is as low as the canvas can draw it.
 * @param {Node} node
 */
export function fitHtml(node) {
  const height = node.size[1], lowest = openHeight(node), room = hiddenRoom(node);
  if (!room || height > lowest + room) return;
  // It leaves no room around panels, either.
  node.setSize([node.size[0], Math.min(height, lowest - total(passing(node), ({ around }) => around))]);
}

/**
 * Height that Nodes 2.0 may not need: it hides advanced inputs at first.
 * @param {Node} node
 */
function hiddenRoom(node) {
  if (!drawnAsHtml()) return 0;
  const advanced = (node.widgets ?? []).filter((/** @type {any} */ one) => one.options?.advanced);
  return advanced.length * (/** @type {any} */ (window).LiteGraph.NODE_WIDGET_HEIGHT + GAP);
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
 * @param {Node} node
 * @returns {{ height: number, around: number, brought: number }[]} its panels that come and go
 */
const passing = (node) => (node.widgets ?? []).flatMap(
  (/** @type {any} */ widget) => widget.wanduetPassing ?? []);

/**
 * @template T
 * @param {T[]} list
 * @param {(one: T) => number} of
 */
const total = (list, of) => list.reduce((sum, one) => sum + of(one), 0);

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
  const options = { serialize: false, getMinHeight: () => height + around, margin: MARGIN };
  const before = node.size[1], without = heightWithout(node);
  // Nodes 2.0 keeps the element on the page of a widget that had this node's number, this name and type,
  // such as that of a node before undo made it anew.
  const type = `${name} ${Math.random()}`;
  const widget = hooked(node, () => node.addDOMWidget(name, type, element, options));
  widget.serialize = false;
  const width = Math.max(node.size[0], node.computeSize()[0], minWidth);
  node.setSize([width, heightWith(node, height, around > 0)]);
  if (around) {
    widget.wanduetPassing = { height, around, brought: node.size[1] - before };
    heights.set(node, { set: node.size[1], without });
  }
  return widget;
}

/**
 * Height of a node without its panels that come and go: as it was before them, unless it was changed since.
 * A script may have set it lower than they are.
 * @param {Node} node
 */
export function heightWithout(node) {
  const height = node.size[1], known = heights.get(node), panels = passing(node);
  if (known?.set === height) return known.without;
  const room = total(panels, (one) => one.height + one.around + GAP);
  const brought = total(panels, (one) => one.brought);
  return Math.max(height - brought, Math.min(height, openHeight(node) - room));
}

/**
 * Takes away a panel that comes and goes, with the height that it brought, if it is still there.
 * @param {Node} node
 * @param {any} widget of addPanel
 */
export function takePanel(node, widget) {
  const without = heightWithout(node);
  if (!removePanel(node, widget)) return;
  const left = Math.max(without, node.size[1] - widget.wanduetPassing.brought);
  node.setSize([node.size[0], Math.max(lowestOf(node), passing(node).length ? left : without)]);
  heights.set(node, { set: node.size[1], without });
}
