/** The video that is being sampled, small and in a loop, at its node and around it until the run is over. */

import { div } from "../ui/dom.js";
import { say } from "../ui/words.js";

const TALLEST = 320;
const MARGINS = 32;

/**
 * @typedef {object} Places what the previews need of the graph editor
 * @property {(id: string) => any[]} findNodes the node and those that show the subgraphs around it
 * @property {{ show: (node: any, element: HTMLElement, height: number) => void,
 *   hide: (node: any) => void }} panels
 */

/**
 * Height of a preview at a node, in units of the graph.
 * @param {number} width
 * @param {number} height of the images
 * @param {number} nodeWidth
 */
export const heightFor = (width, height, nodeWidth) =>
  Math.round(Math.min(TALLEST, (Math.max(nodeWidth - MARGINS, 100) * height) / width));

export class Previews {
  /** @param {Places} places */
  constructor(places) {
    this.places = places;
    /** @type {Map<string, { image: HTMLImageElement, node: any }[]>} */
    this.shown = new Map();
  }

  /** @param {{ node: string, image?: string, width?: number, height?: number, done?: boolean }} message */
  receive({ node: id, image, width, height, done }) {
    if (done || !image || !width || !height) return this.remove(id);
    const known = this.shown.get(id) ?? [];
    const shown = this.places.findNodes(id).map((node) =>
      // Another tab and back, or undo: the node was made anew.
      known.find((one) => one.node === node) ?? this.add(node, width, height));
    this.shown.set(id, shown);
    for (const one of shown) one.image.src = image;
  }

  /**
   * @param {any} node
   * @param {number} width
   * @param {number} height
   */
  add(node, width, height) {
    const image = document.createElement("img");
    image.alt = say("preview");
    image.draggable = false;
    const tall = heightFor(width, height, node.size[0]);
    this.places.panels.show(node, div("wanduet-preview", image), tall);
    return { image, node };
  }

  /** @param {string} id */
  remove(id) {
    for (const { node } of this.shown.get(id) ?? []) this.places.panels.hide(node);
    this.shown.delete(id);
  }

  /** A run begins or is over: nothing of an earlier one stays. */
  clear() {
    for (const id of [...this.shown.keys()]) this.remove(id);
  }
}
