/** Which workflow a run is of: ids of its nodes are those of other nodes in another workflow. */

/** Runs that are remembered. */
const MANY = 50;

export class Origins {
  /** @param {() => string | undefined} openWorkflow id of the workflow that is open */
  constructor(openWorkflow) {
    this.openWorkflow = openWorkflow;
    /** @type {Map<string, string>} */
    this.byPrompt = new Map();
  }

  /** @param {{ prompt_id?: string, workflow?: string | null }} message of the server */
  learn({ prompt_id: prompt, workflow }) {
    if (!prompt || !workflow) return;
    this.byPrompt.delete(prompt);
    this.byPrompt.set(prompt, workflow);
    if (this.byPrompt.size > MANY) this.byPrompt.delete(this.byPrompt.keys().next().value ?? "");
  }

  /**
   * @param {{ prompt_id?: string, workflow?: string | null }} message
   * @returns {boolean} whether it is of the workflow that is open, as far as that is known
   */
  isHere(message) {
    this.learn(message);
    const of = this.byPrompt.get(message.prompt_id ?? "");
    const open = this.openWorkflow();
    return !of || !open || of === open;
  }
}
