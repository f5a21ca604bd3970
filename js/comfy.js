/**
 * The only file that touches ComfyUI's frontend (app, api); nodes and links are read in read_graph.js, and
 * panels added in node_height.js. So a change of its interface is one edit here. Works with both renderers,
 * canvas and Nodes 2.0.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { after } from "./node_hooks.js";
import { isOurs } from "./read_graph.js";

/** @typedef {any} Node a LiteGraph node */

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
 * Calls `onCreated` for every new node of this pack.
 * @param {string} name of the extension
 * @param {(node: Node) => void} onCreated
 */
export function extendOurNodes(name, onCreated) {
  app.registerExtension({
    name,
    /** @param {Node} node */
    nodeCreated(node) {
      if (isOurs(node)) onCreated(node);
    },
  });
}

/** @returns {any} the graph that all others lie in */
export const rootGraph = () => app.rootGraph ?? app.graph;

/** @returns {boolean} whether nodes are drawn as HTML, which is Nodes 2.0 */
export const drawnAsHtml = () => !!(/** @type {any} */ (window).LiteGraph?.vueNodesMode);

/**
 * Calls `action` once Nodes 2.0 or the canvas draws the nodes instead of the other.
 * @param {() => void} action
 */
export function whenDrawnAnew(action) {
  const soon = () => requestAnimationFrame(action);
  app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", soon);
}

/** Draws the canvas anew. */
export const redraw = () => app.canvas.setDirty(true, true);

/** @returns {string | undefined} id of the workflow that is open, as it is saved */
export const openWorkflowId = () => rootGraph()?.id;

/** @returns {any} the workflow that is open, the same object as long as its tab is */
export const openWorkflow = () => app.extensionManager?.workflow?.activeWorkflow;

/**
 * Adds a button below the node's widgets, which is no part of saved workflows and prompts.
 * @param {Node} node
 * @param {string} label
 * @param {() => void} action
 */
export function addButton(node, label, action) {
  const widget = node.addWidget("button", label, null, action, { serialize: false });
  widget.serialize = false;
}

/**
 * Puts a value into a widget, as if a person had.
 * @param {Node} node
 * @param {string} name
 * @param {string} value
 */
export function writeWidget(node, name, value) {
  const widget = node.widgets?.find((/** @type {any} */ one) => one.name === name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
  app.canvas.setDirty(true, true);
}

/**
 * Calls `action` after anything a person did while nodes of this pack are in the graph, and after
 * changes that the editor reports.
 * @param {() => void} action
 * @returns {{ add: (node: Node) => void, remove: (node: Node) => void }} to be told of the nodes
 */
export function whenEdited(action) {
  /** @type {Set<Node>} */
  const present = new Set();
  const listen = (/** @type {boolean} */ on) => {
    const change = on ? "addEventListener" : "removeEventListener";
    for (const type of DONE_BY_HAND.slice(1)) window[change](type, action, true);
    api[change]("graphChanged", action);
  };
  return {
    add(node) {
      if (!present.size) listen(true);
      present.add(node);
      action();
    },
    remove(node) {
      if (present.delete(node) && !present.size) listen(false);
    },
  };
}

/**
 * Moves a socket to the place after another one. The editor matches saved sockets by name.
 * @param {Node} node that was just made
 * @param {string} name
 * @param {string} after
 */
export function moveInput(node, name, after) {
  const from = node.findInputSlot(name);
  if (from < 0 || node.findInputSlot(after) < 0) return;
  const [input] = node.inputs.splice(from, 1);
  node.inputs.splice(node.findInputSlot(after) + 1, 0, input);
}

/**
 * Draws a text where a number widget has its value, or, in Nodes 2.0, beside its name.
 * @param {Node} node
 * @param {string} name of the widget
 * @param {string | null} text null for the value itself
 */
export function showInstead(node, name, text) {
  const widget = node.widgets?.find((/** @type {any} */ one) => one.name === name);
  if (!widget) return;
  if (!("wanduetText" in widget)) {
    const drawn = findProperty(widget, "_displayValue");
    Object.defineProperty(widget, "_displayValue", {
      configurable: true,
      get() {
        return this.wanduetText ?? drawn?.get?.call(this) ?? `${this.value}`;
      },
    });
    // Down to -1 is valid, and would be drawn as a slider that is half full at 0.
    if (widget.options?.min === -1) widget.options.min = 0;
    widget.wanduetLabel = widget.label;
  }
  widget.wanduetText = text;
  const beside = drawnAsHtml() && text;
  const label = beside ? `${widget.wanduetLabel ?? name}: ${text}` : widget.wanduetLabel;
  if (widget.label !== label) widget.label = label;
  app.canvas?.setDirty(true, false);
}

/**
 * @param {any} object
 * @param {string} name
 */
function findProperty(object, name) {
  for (let at = object; at; at = Object.getPrototypeOf(at)) {
    const found = Object.getOwnPropertyDescriptor(at, name);
    if (found) return found;
  }
  return undefined;
}

/**
 * Calls `action` with the data of a message of the server.
 * @param {string} type
 * @param {(detail: any) => void} action
 */
export function onMessage(type, action) {
  api.addEventListener(type, (/** @type {CustomEvent} */ event) => action(event.detail));
}

/**
 * Tells the server, now and whenever it may have forgotten, that this page shows its messages.
 * @param {string} path
 * @param {(answer: any) => void} onAnswer
 */
export function sayHello(path, onAnswer) {
  const say = async () => {
    if (!api.clientId) return;
    onAnswer(await getJson(`${path}?client_id=${encodeURIComponent(api.clientId)}`));
  };
  for (const type of ["status", "reconnected", "execution_start"]) {
    api.addEventListener(type, say, { once: type === "status" });
  }
  say();
}

/**
 * Puts text on the clipboard, on pages without a secure context as well.
 * @param {string} text
 */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/**
 * @param {string} summary
 * @param {string} detail
 * @param {number} life ms
 */
export function showError(summary, detail, life) {
  app.extensionManager?.toast?.add({ severity: "error", summary, detail, life });
}

/**
 * Lets the wheel zoom and the middle button pan as if the element were not there. Nodes 2.0 does
 * so itself, before an event gets here.
 * @param {HTMLElement} element
 */
export function passToCanvas(element) {
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
 * @param {string} path route and query, without /api
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  const response = await api.fetchApi(path);
  if (!response.ok) return { error: `The server answered ${response.status} to ${path}.` };
  return response.json();
}

/**
 * @param {{ filename: string, subfolder: string, type: string }} place of an output
 * @returns {Promise<Blob>}
 */
export async function getFile({ filename, subfolder, type }) {
  const response = await api.fetchApi(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  return response.blob();
}

/**
 * @param {string} path
 * @param {any} body
 * @returns {Promise<any>} { error } where the server refused
 * @throws {Error} where it failed, and may answer when asked again
 */
export async function postJson(path, body) {
  const headers = { "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(body) };
  const response = await api.fetchApi(path, request);
  const answer = `The server answered ${response.status}.`;
  if (response.status >= 500) throw new Error(answer);
  return response.ok ? response.json() : { error: answer };
}

/** @returns {Promise<Record<string, string>>} our panels' words in the editor's language */
export async function translatedWords() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  if (language === "en") return {};
  const all = await getJson("/i18n");
  return all[language]?.wanduet ?? {};
}

/**
 * Changes what an empty text box shows.
 * @param {Node} node
 * @param {string} name of the widget
 * @param {string} text
 */
export function setPlaceholder(node, name, text) {
  const widget = node.widgets?.find((/** @type {any} */ one) => one.name === name);
  if (widget?.element) widget.element.placeholder = text;
  if (widget?.options) widget.options.placeholder = text;
}
