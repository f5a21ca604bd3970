/**
 * The only file that touches ComfyUI's frontend (app, api, LiteGraph nodes and links), so that a
 * change of its interface is one edit here. Works with both renderers, canvas and Nodes 2.0.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** @typedef {any} Node a LiteGraph node */

/** Id of the pseudo node that has the inputs of a subgraph. */
const SUBGRAPH_INPUT = -10;

/** Longest chain of nodes followed upstream, in case a graph runs in a circle. */
const MAX_CHAIN = 100;

/** Widgets that name a model file, and the folder that it lies in. */
const FILE_WIDGETS = {
  high_noise_model: "diffusion_models",
  model_name: "diffusion_models",
  unet_name: "diffusion_models",
};

/** Events of the page with which a person can change a value, a link, or the node's place. */
const DONE_BY_HAND = ["pointermove", "pointerup", "keyup", "input", "change", "wheel", "drop"];

/**
 * Calls `onCreated` for every new node of one of our node ids.
 * @param {string} name of the extension
 * @param {string} nodeId
 * @param {(node: Node) => void} onCreated
 */
export function extendNode(name, nodeId, onCreated) {
  app.registerExtension({
    name,
    /** @param {Node} node */
    nodeCreated(node) {
      if (node.comfyClass === nodeId) onCreated(node);
    },
  });
}

/**
 * Adds an element below the node's widgets. It holds no value, so it is left out of saved
 * workflows and prompts.
 * @param {Node} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {{ minWidth: number, height: number }} size
 */
export function addPanel(node, name, element, { minWidth, height }) {
  element.style.setProperty("--comfy-widget-min-height", `${height}px`);
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    getMinHeight: () => height,
    margin: 8,
  });
  widget.serialize = false;
  passToCanvas(element);
  const [width, minHeight] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, minWidth), Math.max(node.size[1], minHeight)]);
}

/**
 * Lets the wheel zoom and the middle button pan as if the element were not there. Nodes 2.0 does
 * so itself, before an event gets here.
 * @param {HTMLElement} element
 */
function passToCanvas(element) {
  /** @param {WheelEvent | PointerEvent} event */
  const pass = (event) => {
    event.preventDefault();
    event.stopPropagation();
    const Copy = /** @type {any} */ (event.constructor);
    app.canvas.canvas.dispatchEvent(new Copy(event.type, event));
  };
  element.addEventListener("wheel", pass, { passive: false });
  element.addEventListener("pointerdown", (event) => event.button === 1 && pass(event));
}

/**
 * Calls `onChange` with a fresh reading whenever it differs from the last, while the node is in
 * a graph. Looks in the next frame after anything a person did on the page, and after changes that
 * the editor reports: values change by hand, undo, links, other extensions and nodes upstream, and
 * no event of the editor covers them all in both renderers. On an idle page it does nothing.
 * @template T
 * @param {Node} node
 * @param {() => T} read
 * @param {(reading: T) => void} onChange
 */
export function watch(node, read, onChange) {
  let frame = 0;
  /** @type {T | undefined} */
  let last;
  const look = () => {
    frame = 0;
    if (!node.graph) return;
    const reading = read();
    if (same(reading, last)) return;
    last = reading;
    onChange(reading);
  };
  const soon = () => {
    frame ||= requestAnimationFrame(look);
  };
  after(node, "onAdded", () => {
    last = undefined;
    // In the capturing phase, because widgets keep events to themselves.
    for (const type of DONE_BY_HAND) window.addEventListener(type, soon, true);
    api.addEventListener("graphChanged", soon);
    soon();
  });
  after(node, "onConnectionsChange", soon);
  after(node, "onRemoved", () => {
    for (const type of DONE_BY_HAND) window.removeEventListener(type, soon, true);
    api.removeEventListener("graphChanged", soon);
    cancelAnimationFrame(frame);
    frame = 0;
  });
}

/**
 * Whether two readings of plain objects and values hold the same.
 * @param {any} a
 * @param {any} b
 * @returns {boolean}
 */
function same(a, b) {
  if (Object.is(a, b)) return true;
  if (!a || !b || typeof a !== "object" || typeof b !== "object") return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length &&
    names.every((name) => name in b && same(a[name], b[name]));
}

/**
 * Runs `action` after a hook of one node, whatever else is hooked there.
 * @param {Node} node
 * @param {string} hook
 * @param {() => void} action
 */
export function after(node, hook, action) {
  const earlier = node[hook];
  /** @param {...any} args */
  node[hook] = function (...args) {
    const result = earlier?.apply(this, args);
    action();
    return result;
  };
}

/**
 * @param {Node} node
 * @returns {Record<string, any>} value of each widget; undefined if only the run will know it
 */
export function readWidgets(node) {
  const widgets = (node.widgets ?? []).filter((/** @type {any} */ w) => w.serialize !== false);
  return Object.fromEntries(widgets.map((/** @type {any} */ w) => [w.name, valueOf(node, w)]));
}

/**
 * @param {Node} node
 * @param {string} inputName
 */
export function isConnected(node, inputName) {
  const index = node.findInputSlot(inputName);
  return index >= 0 && linkInto(node, index) != null;
}

/**
 * Follows the MODEL link of an input upstream, through whatever takes and gives a MODEL, to the
 * loader that names a file.
 * @param {Node} node
 * @param {string} inputName
 * @returns {{ folder: string, name: string } | null}
 */
export function findModelFile(node, inputName) {
  let source = follow(node, node.findInputSlot(inputName));
  for (let length = 0; source?.node && length < MAX_CHAIN; length += 1) {
    const loader = source.node;
    for (const [name, folder] of Object.entries(FILE_WIDGETS)) {
      const widget = loader.widgets?.find((/** @type {any} */ w) => w.name === name);
      const value = widget && valueOf(loader, widget);
      if (typeof value === "string") return { folder, name: value };
    }
    const next = loader.inputs?.findIndex((/** @type {any} */ input) => input.type === "MODEL");
    source = follow(loader, next ?? -1);
  }
  return null;
}

/**
 * @param {string} path route and query, without /api
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  const response = await api.fetchApi(path);
  if (!response.ok) return { error: `The server answered ${response.status} to ${path}.` };
  return response.json();
}

/**
 * @param {Node} node
 * @param {any} widget
 */
function valueOf(node, widget) {
  const index = inputOf(node, widget.name);
  if (index < 0 || !linkInto(node, index)) return widget.value;
  const source = follow(node, index);
  return (source?.widget ?? valueWidget(source?.node))?.value;
}

/**
 * The only widget of a node that just holds a value, such as Primitive and Int.
 * @param {Node | undefined} node
 */
function valueWidget(node) {
  if (!node || node.inputs?.some((/** @type {any} */ input) => !input.widget)) return undefined;
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === "value");
}

/**
 * @param {Node} node
 * @param {string} widgetName
 */
function inputOf(node, widgetName) {
  return (node.inputs ?? []).findIndex((/** @type {any} */ i) => i.widget?.name === widgetName);
}

/**
 * Finds what feeds an input, through reroutes and in and out of subgraphs.
 * @param {Node} node
 * @param {number} index of the input
 * @returns {{ node?: Node, widget?: any } | null} a node, or the widget of an enclosing subgraph
 */
function follow(node, index, depth = 0) {
  const input = node.inputs?.[index];
  if (!input || depth > MAX_CHAIN) return null;
  const link = linkInto(node, index);
  if (!link) {
    const name = input.widget?.name;
    const widget = name && node.widgets?.find((/** @type {any} */ w) => w.name === name);
    return widget ? { widget } : null;
  }
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    const host = hostOf(node.graph, app.graph);
    return host && follow(host, link.origin_slot, depth + 1);
  }
  let origin = node.graph.getNodeById(link.origin_id);
  let slot = link.origin_slot;
  while (origin?.subgraph) {
    const inner = origin.subgraph.outputs[slot]?.getLinks()[0];
    origin = inner && origin.subgraph.getNodeById(inner.origin_id);
    slot = inner?.origin_slot;
  }
  if (!origin) return null;
  const passesOn = origin.isVirtualNode && origin.inputs?.length === 1;
  return passesOn ? follow(origin, 0, depth + 1) : { node: origin };
}

/**
 * The link that ends at an input. A node that shows a subgraph answers `getInputLink` with a link
 * inside it, so its own are looked for in its graph.
 * @param {Node} node
 * @param {number} index
 */
function linkInto(node, index) {
  if (!node.subgraph) return node.getInputLink(index);
  return [...node.graph.links.values()].find(
    (link) => link.target_id === node.id && link.target_slot === index);
}

/**
 * The node that shows a subgraph in the graph around it; the first if there are several.
 * @param {any} subgraph
 * @param {any} graph searched, with all that lies inside
 * @returns {Node | null}
 */
function hostOf(subgraph, graph) {
  for (const node of graph.nodes) {
    const host = node.subgraph === subgraph ? node : node.subgraph && hostOf(subgraph, node.subgraph);
    if (host) return host;
  }
  return null;
}
