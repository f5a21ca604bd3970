/** Panels below a node's widgets that come and go, and leave nothing of themselves in a workflow. */

import { passToCanvas, redraw } from "../comfy.js";
import { addPanel, heightWithout, takePanel } from "../node_height.js";
import { div } from "./dom.js";

/** Room above and below the element. */
const AROUND = 16;

/** @typedef {{ host: HTMLElement, widget: any, height: number }} Place */

export class PassingPanels {
  /** @param {string} name of the widget that holds the element */
  constructor(name) {
    this.name = name;
    /** @type {WeakMap<any, Place>} */
    this.places = new WeakMap();
  }

  /**
   * Shows an element at a node instead of what this kind of panel showed there.
   * @param {any} node
   * @param {HTMLElement} element
   * @param {number} height in units of the graph
   */
  show(node, element, height) {
    if (!node.graph) return;
    const place = this.places.get(node) ?? this.open(node);
    // Nodes 2.0 puts a widget's element on the page once, so the element around stays the same.
    place.host.replaceChildren(element);
    if (place.widget && place.height === height) return;
    this.take(node, place);
    place.height = height;
    place.widget = addPanel(node, this.name, place.host, { minWidth: 0, height, around: AROUND });
    redraw();  // an older frontend puts the element in its place only then
  }

  /** @param {any} node whose panel goes, with the height that it brought */
  hide(node) {
    const place = this.places.get(node);
    if (!place?.widget) return;
    this.take(node, place);
    place.host.replaceChildren();
    redraw();
  }

  /**
   * @param {any} node
   * @returns {boolean}
   */
  isShown(node) {
    return !!this.places.get(node)?.widget;
  }

  /**
   * @param {any} node
   * @returns {Place}
   */
  open(node) {
    const place = { host: div("wanduet-passing"), widget: null, height: 0 };
    this.places.set(node, place);
    passToCanvas(place.host);
    const { name } = this;
    const earlier = node.onSerialize;
    // Or a run would mark the workflow as changed, and undo would go through panels.
    node.onSerialize = function (/** @type {any} */ saved) {
      const result = earlier?.apply(this, arguments);
      if (place.widget) saved.size = [saved.size[0], heightWithout(this)];
      // Frontend 1.32 lists there every widget of a node that shows a subgraph; files may hold JSON text.
      const listed = saved.properties?.proxyWidgets;
      if (Array.isArray(listed)) {
        saved.properties.proxyWidgets = listed.filter((/** @type {string[]} */ [, one]) => one !== name);
      }
      return result;
    };
    return place;
  }

  /**
   * @param {any} node
   * @param {Place} place
   */
  take(node, place) {
    if (place.widget) takePanel(node, place.widget);
    place.widget = null;
  }
}
