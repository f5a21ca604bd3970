/** The frames of one video: a file of JPEGs one after another, decoded when they are shown. */

/** Decoded frames that are kept: enough to step back and forth, few enough for any memory. */
const KEPT = 24;

/**
 * Where each frame lies in the file.
 * @param {number[]} lengths
 * @returns {[number, number][]} start and end of each
 */
export function ranges(lengths) {
  let end = 0;
  return lengths.map((length) => {
    const start = end;
    end += length;
    return [start, end];
  });
}

export class Frames {
  /**
   * @param {{ lengths: number[], width: number, height: number }} video
   * @param {Blob} file
   */
  constructor({ lengths, width, height }, file) {
    this.width = width;
    this.height = height;
    this.count = lengths.length;
    this.places = ranges(lengths);
    this.file = file;
    /** @type {Map<number, Promise<ImageBitmap>>} */
    this.decoded = new Map();
  }

  /**
   * @param {number} index beyond the last: the last
   * @returns {Promise<ImageBitmap>}
   */
  get(index) {
    const at = Math.min(index, this.count - 1);
    const known = this.decoded.get(at);
    if (known) return known;
    const [start, end] = this.places[at];
    const image = createImageBitmap(this.file.slice(start, end, "image/jpeg"));
    this.decoded.set(at, image);
    for (const oldest of [...this.decoded.keys()].slice(0, -KEPT)) this.drop(oldest);
    return image;
  }

  /** @param {number} index */
  drop(index) {
    this.decoded.get(index)?.then((image) => image.close(), () => {});
    this.decoded.delete(index);
  }

  close() {
    for (const index of [...this.decoded.keys()]) this.drop(index);
  }
}
