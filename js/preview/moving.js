/** The video that is being sampled, small and in a loop, at its node until the run is over. */

import { div } from "../ui/dom.js";
import { say } from "../ui/words.js";

const TALLEST = 320;
const MARGINS = 32;

/**
 * @typedef {object} Places what the previews need of the graph editor
 * @property {(id: string) => any} findNode
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
    /** @type {Map<string, { image: HTMLImageElement, node: any }>} */
    this.shown = new Map();
  }

  /** @param {{ node: string, image?: string, width?: number, height?: number, done?: boolean }} message */
  receive({ node: id, image, width, height, done }) {
    if (done || !image || !width || !height) return this.remove(id);
    // Another tab and back, or undo: the node was made anew.
    const known = this.shown.get(id);
    const there = known && known.node === this.places.findNode(id);
    const shown = there ? known : this.add(id, width, height);
    if (shown) shown.image.src = image;
  }

  /**
   * @param {string} id
   * @param {number} width
   * @param {number} height
   */
  add(id, width, height) {
    const node = this.places.findNode(id);
    if (!node) return undefined;
    const image = document.createElement("img");
    image.alt = say("preview");
    image.draggable = false;
    const tall = heightFor(width, height, node.size[0]);
    this.places.panels.show(node, div("wanduet-preview", image), tall);
    const shown = { image, node };
    this.shown.set(id, shown);
    return shown;
  }

  /** @param {string} id */
  remove(id) {
    const shown = this.shown.get(id);
    if (shown) this.places.panels.hide(shown.node);
    this.shown.delete(id);
  }

  /** A run begins or is over: nothing of an earlier one stays. */
  clear() {
    for (const id of [...this.shown.keys()]) this.remove(id);
  }
}
