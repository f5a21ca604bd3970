/** Entry point: says which node gets what. Help pages of the nodes lie in docs/. */

import {
  addButton, copyText, extendNode, extendOurNodes, getFile, getJson, moveInput, onMessage,
  openWorkflow, openWorkflowId, passToCanvas, postJson, rootGraph, sayHello, setPlaceholder,
  showError, showInstead, translatedWords, watch, whenDrawnAnew, whenEdited, writeWidget,
} from "./comfy.js";
import { addPanel, fitHtml, leaveOutHiddenInputs } from "./node_height.js";
import { after } from "./node_hooks.js";
import {
  findModelFile, findNode, findPath, isConnected, isOurs, nodesIn, readPrompt, readWidgets,
} from "./read_graph.js";
import { Frames } from "./compare/frames.js";
import { ComparePlayer, CONTROLS_HEIGHT } from "./compare/player.js";
import { Previews, heightFor } from "./preview/moving.js";
import { heightOf, makeBox } from "./problems/box.js";
import { ProblemWatcher } from "./problems/watcher.js";
import { automaticTexts } from "./sampler/auto_values.js";
import { PANEL_HEIGHT, SchedulePanel } from "./schedule/widget.js";
import { Origins } from "./run/origin.js";
import { KeptReports, heightOfReport, heightOfText, makeReport } from "./run/report.js";
import { addStyleSheet, div } from "./ui/dom.js";
import { PassingPanels } from "./ui/passing_panel.js";
import { learn, say } from "./ui/words.js";

/** The editor waits for this file, so a server that does not answer must not hold it up. */
const LONGEST_WAIT = 3000;
const english = new Promise((resolve) => setTimeout(() => resolve({}), LONGEST_WAIT));
learn(await Promise.race([translatedWords().catch(() => ({})), english]));

/** @type {WeakMap<any, SchedulePanel>} */
const panels = new WeakMap();

extendOurNodes("WanDuet.Room", leaveOutHiddenInputs);
whenDrawnAnew(() => nodesIn(rootGraph()).filter(isOurs).forEach(fitHtml));

extendNode("WanDuet.Schedule", "WanDuetMoESampler", (node) => {
  addStyleSheet();
  moveInput(node, "model_low", "model_high");
  moveInput(node, "model_start", "model_low");
  const panel = new SchedulePanel(getJson, ({ widgets }, settings) => {
    for (const [name, text] of Object.entries(automaticTexts(widgets, settings))) {
      showInstead(node, name, text);
    }
  });
  panels.set(node, panel);
  passToCanvas(panel.element);
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

const plans = new PassingPanels("wanduet_plan");
const reports = new PassingPanels("wanduet_report");
const keptReports = new KeptReports(openWorkflow);

/**
 * @param {any} node a sampler
 * @param {string[]} lines of what a run would be; none: nothing is known
 */
function showPlan(node, lines) {
  const text = lines.join("\n");
  const element = div("wanduet-plan");
  element.textContent = text;
  if (text) plans.show(node, element, heightOfText(text, node.size[0]));
  else plans.hide(node);
  // Undo and a change of tabs make the nodes anew.
  keptReports.fetch(openWorkflowId(), ofSampler);
  const report = keptReports.of(node);
  if (report && !reports.isShown(node)) showReport(node, report);
}

/**
 * @param {any} node
 * @param {string} report
 */
function showReport(node, report) {
  reports.show(node, makeReport(report, copyText), heightOfReport(report, node.size[0]));
}

const boxes = new PassingPanels("wanduet_problems");

const watcher = new ProblemWatcher({
  readPrompt,
  findNode,
  postJson,
  toast: showError,
  plan: showPlan,
  automatic: (node, values) => panels.get(node)?.take(values),
  show(node, problems) {
    if (problems.length) boxes.show(node, makeBox(problems), heightOf(problems, node.size[0]));
    else boxes.hide(node);
  },
});
const edited = whenEdited(() => watcher.changed());

extendOurNodes("WanDuet.Problems", (node) => {
  addStyleSheet();
  after(node, "onAdded", () => edited.add(node));
  after(node, "onConnectionsChange", () => watcher.changed());
  after(node, "onRemoved", () => {
    edited.remove(node);
    watcher.forget(node);
  });
});
onMessage("wanduet.refused", ({ problems }) => watcher.failed(problems));

/** The run that began and whose workflow is not known yet. @type {string | undefined} */
let starting;

/** @param {any} message of a run, or what the server says of it */
const begun = (message) => {
  if (message.prompt_id !== starting) return;
  starting = undefined;
  watcher.started(origins.isHere(message));
};
onMessage("execution_start", ({ prompt_id: prompt }) => (starting = prompt));
onMessage("execution_success", begun);
onMessage("execution_error", (error) => {
  begun(error);
  if (error?.exception_type !== "wanduet.WanDuetError") return;
  const message = `${error.exception_message}`.trim();
  const problem = { node_id: `${error.node_id}`, input: "", message };
  watcher.failed([problem], origins.isHere(error));
});

/** Which workflow runs are of. Messages of others find nodes by accident only. */
const origins = new Origins(openWorkflowId);

/** The prompt that runs. @type {string | undefined} */
let current;
onMessage("execution_start", ({ prompt_id: prompt }) => (current = prompt));

/**
 * @param {string} kind
 * @param {string} id
 */
const ofClass = (kind, id) => {
  const node = findNode(id);
  return node?.comfyClass === kind ? node : undefined;
};

/** @param {string} id */
const ofSampler = (id) => ofClass("WanDuetMoESampler", id);

const previews = new Previews({
  findNodes: (id) => (ofSampler(id) ? findPath(id) : []),
  panels: new PassingPanels("wanduet_preview"),
});
onMessage("wanduet.preview", (message) => {
  if (origins.isHere(message)) previews.receive(message);
});

/** What nodes said while they ran, until they run again. */
const said = new PassingPanels("wanduet_said");
onMessage("wanduet.said", (message) => {
  const node = origins.isHere(message) && findNode(message.node);
  if (!node || !isOurs(node)) return;
  const element = div("wanduet-said");
  element.textContent = message.text;
  said.show(node, element, heightOfText(message.text, node.size[0]));
});
onMessage("executing", (id) => {
  const node = id && origins.isHere({ prompt_id: current }) && findNode(id);
  if (node) said.hide(node);
});

/** @type {Set<any>} nodes that show how far they are */
const running = new Set();

onMessage("wanduet.step", (progress) => {
  const node = origins.isHere(progress) && ofSampler(progress.node);
  if (!node) return;
  panels.get(node)?.advance(progress);
  running.add(node);
});

const comparisons = new PassingPanels("wanduet_compare");
/** @type {WeakMap<any, ComparePlayer>} */
const players = new WeakMap();

onMessage("executed", async (message) => {
  const { node: id, display_node: shownAs, output } = message;
  const compared = output?.wanduet_compare?.[0];
  const node = compared && origins.isHere(message) && ofClass("WanDuetCompare", shownAs ?? id);
  if (!node) return;
  const { fps, videos } = compared;
  const files = await Promise.all(videos.map((/** @type {any} */ video) => getFile(video)));
  players.get(node)?.close();
  if (!node.graph) return;
  const [a, b] = videos.map((/** @type {any} */ video, /** @type {number} */ i) =>
    new Frames(video, files[i]));
  const player = new ComparePlayer(a, b, fps);
  const height = heightFor(a.width, a.height, node.size[0]) + CONTROLS_HEIGHT;
  comparisons.show(node, player.element, height);
  players.set(node, player);
});
extendNode("WanDuet.Compare", "WanDuetCompare", (node) => {
  addStyleSheet();
  node.setSize([Math.max(node.size[0], 420), node.size[1]]);
  after(node, "onRemoved", () => players.get(node)?.close());
});

/** Prompts that nodes wrote. @type {WeakMap<any, string>} */
const written = new WeakMap();
const prompts = new PassingPanels("wanduet_prompt");

extendNode("WanDuet.ExtendPrompt", "WanDuetPromptExtend", (node) => {
  addButton(node, say("editResult"), () => {
    const prompt = written.get(node);
    if (prompt) writeWidget(node, "edited", prompt);
  });
});

onMessage("executed", (message) => {
  const { node: id, display_node: shownAs, output } = message;
  const { prompt, text } = output?.wanduet_prompt?.[0] ?? {};
  const node = text && origins.isHere(message) && findNode(shownAs ?? id);
  if (!isOurs(node ?? {})) return;
  written.set(node, prompt);
  const element = div("wanduet-plan wanduet-prompt");
  element.textContent = text;
  prompts.show(node, element, heightOfText(text, node.size[0]));
});

extendNode("WanDuet.Prompt", "WanDuetTextEncode", (node) => {
  const official = node.widgets?.find((/** @type {any} */ one) => one.name === "negative")
    ?.element?.placeholder ?? "";
  const read = () => readWidgets(node).official_negative !== false;
  watch(node, read, (on) => setPlaceholder(node, "negative", on ? official : say("noNegative")));
});

onMessage("executed", (message) => {
  const { node: id, display_node: shownAs, output } = message;
  const report = output?.wanduet_report?.[0]?.report;
  if (!report) return;
  if (!origins.isHere(message)) {
    const workflow = origins.byPrompt.get(message.prompt_id);
    if (workflow) keptReports.keepElsewhere(workflow, shownAs ?? id, report);
    return;
  }
  const node = ofSampler(shownAs ?? id);
  if (!node) return;
  keptReports.keep(node, report);
  said.hide(node);  // the report begins with it
  showReport(node, report);
  watcher.ran();
});
const over = () => {
  previews.clear();
  for (const node of running) panels.get(node)?.advance(null);
  running.clear();
};
for (const type of [
  "execution_start", "execution_success", "execution_error", "execution_interrupted",
]) {
  onMessage(type, over);
}
sayHello("/wanduet/hello", (run) => {
  origins.learn(run);
  current ??= run.prompt_id ?? undefined;  // of a run that began before this page did
  begun(run);
});
