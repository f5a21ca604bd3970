/** Widgets of which 0 means the model's own value: they show that value instead of 0. */

import { say } from "../ui/words.js";

const AUTOMATIC = {
  steps: "steps",
  cfg_high: "cfgHigh",
  cfg_low: "cfgLow",
  shift: "shift",
  boundary: "boundary",
};

/** @param {number} value */
const short = (value) => String(Number(value.toFixed(4)));

/**
 * What each automatic widget stands for; null for one that has a value of its own.
 * @param {Record<string, any>} widgets values by name; undefined where a link decides
 * @param {Record<string, any>} settings with official values filled in
 * @returns {Record<string, string | null>}
 */
export function automaticTexts(widgets, settings) {
  return Object.fromEntries(Object.entries(AUTOMATIC)
    .filter(([name]) => name in widgets)
    .map(([name, key]) => {
      const automatic = widgets[name] <= 0 && settings[key] != null;
      return [name, automatic ? say("automatic", { value: short(settings[key]) }) : null];
    }));
}
