/** Reads LiteGraph nodes, widgets and links, through reroutes, subgraphs and bypassed nodes. */

import { rootGraph } from "./comfy.js";

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

/** A link of which only the run will know what it brings. */
const UNKNOWN = ["unknown", 0];

/** Modes of a node that does not run, and of one that passes its inputs on. */
const NEVER = 2;
const BYPASS = 4;

/**
 * @param {Node} node
 * @returns {boolean} whether it is of this pack
 */
export const isOurs = (node) => `${node.comfyClass ?? ""}`.startsWith("WanDuet");

/**
 * Finds a node by the id that a run uses: ids of the nodes that show subgraphs come first.
 * @param {string} id such as "4" or "12:3"
 * @returns {Node[]} the nodes that show the subgraphs around it, and itself last; none: not found
 */
export function findPath(id) {
  const path = [];
  let graph = rootGraph();
  for (const part of `${id}`.split(":")) {
    const node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    if (!node) return [];
    path.push(node);
    graph = node.subgraph;
  }
  return path;
}

/**
 * @param {string} id that a run uses
 * @returns {Node | undefined}
 */
export const findNode = (id) => findPath(id).at(-1);

/**
 * @param {any} graph
 * @returns {Node[]} its nodes, and those of all subgraphs inside
 */
export const nodesIn = (graph) => (graph?.nodes ?? []).flatMap(
  (/** @type {Node} */ node) => [node, ...(node.subgraph ? nodesIn(node.subgraph) : [])]);

/**
 * Reads this pack's nodes and all that is upstream of them, much as the editor would queue them,
 * but without asking widgets for values that only a run may ask for.
 * @returns {{ prompt: Record<string, any>, nodes: Node[] }} ids are indices of `nodes`
 */
export function readPrompt() {
  /** @type {Node[]} */
  const nodes = [];
  /** @type {Record<string, any>} */
  const prompt = {};
  /** @param {Node} node */
  const add = (node) => {
    const known = nodes.indexOf(node);
    if (known >= 0) return `${known}`;
    const id = `${nodes.push(node) - 1}`;
    /** @type {Record<string, any>} */
    const inputs = {};
    prompt[id] = { class_type: node.comfyClass ?? node.type, inputs };
    for (const [name, value] of Object.entries(readWidgets(node))) {
      inputs[name] = value === undefined ? UNKNOWN : value;
    }
    (node.inputs ?? []).forEach((/** @type {any} */ input, /** @type {number} */ index) => {
      if (input.widget || linkInto(node, index) == null) return;
      const source = follow(node, index);
      const runs = source?.node && source.node.mode !== NEVER;
      inputs[input.name] = runs ? [add(source.node), source.slot ?? 0] : UNKNOWN;
    });
    return id;
  };
  for (const node of nodesIn(rootGraph())) {
    if (isOurs(node) && node.mode !== NEVER && node.mode !== BYPASS) add(node);
  }
  return { prompt, nodes };
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
 * @returns {{ node?: Node, slot?: number, widget?: any } | null} an output of a node, or the widget
 *   of an enclosing subgraph
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
    const host = hostOf(node.graph, rootGraph());
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
  if (origin.mode === BYPASS) {
    const type = origin.outputs?.[slot]?.type;
    const passed = (origin.inputs ?? []).findIndex((/** @type {any} */ i) => i.type === type);
    return passed < 0 ? null : follow(origin, passed, depth + 1);
  }
  const passesOn = origin.isVirtualNode && origin.inputs?.length === 1;
  return passesOn ? follow(origin, 0, depth + 1) : { node: origin, slot };
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
