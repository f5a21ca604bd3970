/** Entry point: says which node gets what. Help pages of the nodes lie in docs/. */

import {
  addPanel, after, extendNode, findModelFile, getJson, isConnected, readWidgets, watch,
} from "./comfy.js";
import { PANEL_HEIGHT, SchedulePanel } from "./schedule/widget.js";
import { addStyleSheet } from "./ui/dom.js";

extendNode("WanDuet.Schedule", "WanDuetMoESampler", (node) => {
  addStyleSheet();
  const panel = new SchedulePanel(getJson);
  addPanel(node, "wanduet_schedule", panel.element, { minWidth: 330, height: PANEL_HEIGHT });
  const read = () => ({
    widgets: readWidgets(node),
    connected: isConnected(node, "model_high"),
    hasLow: isConnected(node, "model_low"),
    file: findModelFile(node, "model_high"),
  });
  after(node, "onAdded", () => panel.start());
  after(node, "onRemoved", () => panel.stop());
  watch(node, read, (reading) => panel.update(reading));
});
