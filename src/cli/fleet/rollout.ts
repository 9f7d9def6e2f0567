/**
 * Carries an upgrade or a rollback out: batch by batch, and in a unit step by step. Before each step it looks at what is there, so that
 * it may have been killed anywhere before. At the first failure it stops: what was begun with others at the same time still ends.
 */

import { CliError } from '../failure.js';
import type { TakenOver } from '../takeover_request.js';
import { type Facts, mountFact, serverFact } from './facts.js';
import type { Fleet } from './file.js';
import { type Baseline, baselineOf, builtInProblems, commandProblems } from './health.js';
import { look, programOf, rootOf } from './observe.js';
import {
  type Batch,
  describeStep,
  isDone,
  type Step,
  stepKey,
  stepsOf,
  type Unit,
  unitsOf,
  type Wanted,
} from './plan.js';
import { commandLine, quoted, type Ran, runOn } from './runner.js';
import {
  asked,
  type FleetState,
  type SeenPause,
  withBegun,
  withDone,
  withPauses,
  writeState,
} from './state.js';
import { isInside } from './window.js';

const POLL_MS = 250;
/** A step that failed, or was under way when the command was killed, may still come to its end. */
const LATE_MS = 5000;
const SHUTDOWN_MS = 600_000;
const TAKEOVER_MS = 120_000;
/** `holdfast shutdown`: the target is clean, and clients were evicted. */
const EVICTED_STATUS = 3;
/** No unit needs more steps: more of them mean that nothing changes. */
const STEPS_MAX = 12;

export interface RolloutOptions {
  readonly fleet: Fleet;
  readonly state: FleetState;
  readonly batches: readonly Batch[];
  readonly wanted: Wanted;
  /** The version whose program looks at the hosts. */
  readonly by: string;
  readonly say: (line: string) => void;
}

export class Rollout {
  readonly #options: RolloutOptions;
  #state: FleetState;
  #baseline: Baseline = new Map();
  /** Keys that were under way when the command before this one was killed. */
  readonly #left: Set<string>;
  #stepped = false;

  constructor(options: RolloutOptions) {
    this.#options = options;
    this.#state = { ...options.state, underWay: [], begun: [] };
    this.#left = new Set(options.state.underWay);
  }

  get state(): FleetState {
    return this.#state;
  }

  /** @returns 'aborted' if somebody has asked for that. @throws CliError: the first failure. */
  async run(): Promise<'done' | 'aborted'> {
    const { fleet, batches, by } = this.#options;
    const facts = await look(fleet, by, unitsOf(fleet));
    this.#baseline = baselineOf(unitsOf(fleet), facts);
    const steps = batches.flatMap(({ group, units }) =>
      units
        .flatMap((unit) => this.#steps(unit, facts))
        .map((step) => ({ group: group.name, text: describeStep(step) })),
    );
    this.#save({ ...this.#state, plan: { at: new Date().toISOString(), steps } });
    try {
      for (const batch of batches) {
        if ((await this.#batch(batch)) === 'aborted') {
          this.#save({ ...this.#state, progress: 'aborted' });
          return 'aborted';
        }
      }
    } catch (thrown) {
      this.#save({ ...this.#state, progress: 'failed', failure: (thrown as Error).message });
      throw thrown;
    }
    this.#save({ ...this.#state, progress: 'done' });
    return 'done';
  }

  async #batch({ group, units, beginsGroup }: Batch): Promise<'done' | 'aborted'> {
    const facts = await this.#look(units);
    const left = units.filter((unit) => this.#steps(unit, facts).length > 0);
    if (left.length === 0) return 'done';
    if ((await this.#mayGoOn()) === 'abort') return 'aborted';
    if (this.#stepped && group.pauseMs > 0) {
      this.#options.say(
        `${beginsGroup ? `group ${group.name}` : 'the next ones'} in ${group.pauseMs / 1000} s`,
      );
      if ((await this.#rest(group.pauseMs)) === 'abort') return 'aborted';
    }
    const results = await Promise.allSettled(left.map((unit) => this.#bring(unit)));
    const failed = results.find((one) => one.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    this.#stepped = true;
    await this.#healthy();
    return 'done';
  }

  /** Between two batches nothing is half done: here people may stop it, and here the maintenance window may end. */
  async #mayGoOn(): Promise<'go' | 'abort'> {
    const { fleet, say } = this.#options;
    const now = new Date();
    if (fleet.window !== undefined && !isInside(fleet.window, now.getHours() * 60 + now.getMinutes())) {
      throw new CliError(
        `it is outside of the maintenance window (${fleet.window.text}); run the same command again in it`,
      );
    }
    for (let said = false; ; ) {
      const what = asked(fleet.statePath);
      if (what === 'abort') return 'abort';
      if (what === undefined) {
        if (said) this.#save({ ...this.#state, progress: 'running' });
        return 'go';
      }
      if (!said) {
        say('paused; go on with "resume", end with "abort"');
        this.#save({ ...this.#state, progress: 'paused' });
        said = true;
      }
      await delay(POLL_MS);
    }
  }

  async #rest(ms: number): Promise<'go' | 'abort'> {
    for (const endMs = performance.now() + ms; performance.now() < endMs; ) {
      if (asked(this.#options.fleet.statePath) === 'abort') return 'abort';
      await delay(Math.min(POLL_MS, Math.max(1, endMs - performance.now())));
    }
    return this.#mayGoOn();
  }

  #look(units: readonly Unit[]): Promise<Facts> {
    return look(this.#options.fleet, this.#options.by, units);
  }

  #steps(unit: Unit, facts: Facts): readonly Step[] {
    const version = this.#options.wanted(unit);
    return version === undefined ? [] : stepsOf(unit, facts, version);
  }

  async #bring(unit: Unit): Promise<void> {
    const beganMs = performance.now();
    const evictions: string[] = [];
    for (let count = 0; ; count++) {
      const [step] = this.#steps(unit, await this.#look([unit]));
      if (step === undefined) break;
      if (count >= STEPS_MAX)
        throw new CliError(`${unit.key} does not come to an end: ${describeStep(step)}`);
      await this.#step(unit, step, evictions);
    }
    if (unit.is === 'target') await this.#notePauses(unit.target.label, performance.now() - beganMs);
    if (evictions.length > 0) throw new CliError(`${unit.key}: ${evictions.join('; ')}`);
  }

  async #step(unit: Unit, step: Step, evictions: string[]): Promise<void> {
    const key = stepKey(step);
    const beganMs = performance.now();
    if (this.#left.delete(key) && (await this.#until(LATE_MS, unit, step))) {
      this.#done(key, step, beganMs);
      return;
    }
    if (step.do === 'takeover') await this.#clientIsWell(unit, step);
    const at = new Date().toISOString();
    this.#save(withBegun(this.#state, { key, at, text: describeStep(step) }));
    const ran = await this.#run(step);
    const hasEvicted = step.do === 'shutdown' && ran.status === EVICTED_STATUS;
    if (hasEvicted) evictions.push(ran.why);
    const hasRun = ran.status === 0 || hasEvicted;
    const limitMs = hasRun ? this.#options.fleet.startLimitMs : LATE_MS;
    if (!(await this.#until(limitMs, unit, step))) {
      const why = hasRun ? `nothing of it is seen after ${limitMs / 1000} s` : ran.why;
      throw new CliError(`${describeStep(step)}: ${why}${await this.#backInService(step)}`);
    }
    if (step.do === 'takeover' && hasRun) this.#noteTakeover(unit, ran.stdout);
    this.#done(key, step, beganMs);
  }

  #run(step: Step): Promise<Ran> {
    const { fleet, by } = this.#options;
    if (step.do === 'takeover') {
      const { client, version } = step;
      const words = [
        programOf(fleet, version),
        'takeover',
        client.mountpoint,
        '--with',
        rootOf(fleet, version),
        '--json',
      ];
      return this.#on(client.host, commandLine(words), TAKEOVER_MS);
    }
    const { place } = step;
    if (step.do === 'start')
      return this.#on(place.host, this.#startLine(step, step.version), fleet.startLimitMs);
    return this.#on(place.host, commandLine([programOf(fleet, by), 'shutdown', place.listen]), SHUTDOWN_MS);
  }

  #startLine({ target, place }: Exclude<Step, { readonly do: 'takeover' }>, version: string): string {
    const { fleet } = this.#options;
    return target.start
      .replaceAll('{root}', quoted(rootOf(fleet, version)))
      .replaceAll('{version}', quoted(version))
      .replaceAll('{host}', quoted(place.host))
      .replaceAll('{listen}', quoted(place.listen))
      .replaceAll('{label}', quoted(target.label));
  }

  async #on(name: string, command: string, limitMs: number): Promise<Ran> {
    const host = this.#options.fleet.hosts.find((one) => one.name === name);
    if (host === undefined) throw new CliError(`the file has no host ${name}`);
    return runOn(host, command, limitMs);
  }

  /** No event comes from another host. @returns whether what the step brings about was seen. */
  async #until(limitMs: number, unit: Unit, step: Step): Promise<boolean> {
    for (const endMs = performance.now() + limitMs; ; ) {
      if (isDone(step, await this.#look([unit]))) return true;
      if (performance.now() >= endMs) return false;
      await delay(POLL_MS);
    }
  }

  /** A mount whose server has just changed may be on its way back. */
  async #clientIsWell(unit: Unit, { client }: Extract<Step, { readonly do: 'takeover' }>): Promise<void> {
    for (const endMs = performance.now() + this.#options.fleet.startLimitMs; ; ) {
      const fact = mountFact(await this.#look([unit]), client.host, client.mountpoint);
      if (fact.is === 'up' && fact.importState === 'FULL' && fact.gate === 'OPEN') return;
      if (performance.now() >= endMs) {
        const how = fact.is === 'down' ? fact.why : `connection ${fact.importState}, gate ${fact.gate}`;
        throw new CliError(`${unit.key}: ${how}`);
      }
      await delay(POLL_MS);
    }
  }

  /** A single server that does not start in the new version must not stay away: the one before serves again. @returns what came of it. */
  async #backInService(step: Step): Promise<string> {
    if (step.do !== 'start' || step.target.servers.length > 1) return '';
    const before = this.#state.from[`target ${step.target.label}`];
    if (before === undefined || before === step.version) return `; ${step.target.label} is not served`;
    await this.#on(step.place.host, this.#startLine(step, before), this.#options.fleet.startLimitMs);
    const unit = unitsOf(this.#options.fleet).find(({ key }) => key === `target ${step.target.label}`);
    const serves =
      unit !== undefined &&
      (await this.#until(this.#options.fleet.startLimitMs, unit, { ...step, version: before }));
    return serves ? `; ${before} serves ${step.target.label} again` : `; ${step.target.label} is not served`;
  }

  async #healthy(): Promise<void> {
    const { fleet } = this.#options;
    const units = unitsOf(fleet);
    // A client that comes back, or a standby that starts, may need a moment.
    for (const endMs = performance.now() + fleet.startLimitMs; ; ) {
      const problems = builtInProblems(fleet, units, await this.#look(units), this.#baseline);
      if (problems.length === 0) break;
      if (performance.now() >= endMs || problems.some((one) => one.includes(': evicted ')))
        throw new CliError(`not well after this step: ${problems.join('; ')}`);
      await delay(POLL_MS);
    }
    const problems = await commandProblems(fleet);
    if (problems.length > 0) throw new CliError(`not well after this step: ${problems.join('; ')}`);
  }

  /** What clients have measured while their server changed. */
  async #notePauses(label: string, sinceMs: number): Promise<void> {
    const clients = unitsOf(this.#options.fleet).filter(
      (unit) => unit.is === 'client' && unit.client.target === label,
    );
    const began = performance.now();
    const facts = await this.#look(clients);
    const withinMs = sinceMs + performance.now() - began;
    const seen = clients.flatMap((unit): SeenPause[] => {
      if (unit.is !== 'client') return [];
      const fact = mountFact(facts, unit.client.host, unit.client.mountpoint);
      if (fact.is === 'down') return [];
      const ofNow = fact.pauses.filter(({ agoMs }) => agoMs <= withinMs);
      return ofNow.map(({ ms }) => ({ client: unit.key, ms, why: label }));
    });
    this.#save(withPauses(this.#state, seen));
  }

  #noteTakeover(unit: Unit, stdout: string): void {
    const { silentMs } = JSON.parse(stdout) as TakenOver;
    this.#save(withPauses(this.#state, [{ client: unit.key, ms: silentMs, why: 'takeover' }]));
  }

  #done(key: string, step: Step, beganMs: number): void {
    const ms = performance.now() - beganMs;
    const text = describeStep(step);
    this.#options.say(`${text} (${(ms / 1000).toFixed(1)} s)`);
    this.#save(withDone(this.#state, key, { at: new Date().toISOString(), text, ms: Math.round(ms) }));
  }

  #save(state: FleetState): void {
    this.#state = state;
    writeState(this.#options.fleet.statePath, state);
  }
}

/** The version that each unit has: of a pair, that of the one that serves. */
export function versionsNow(
  fleet: Fleet,
  facts: Facts,
  plain: (version: string) => string,
): Record<string, string> {
  const now: Record<string, string> = {};
  for (const unit of unitsOf(fleet)) {
    const all =
      unit.is === 'client'
        ? [mountFact(facts, unit.client.host, unit.client.mountpoint)]
        : unit.target.servers.map(({ host, listen }) => serverFact(facts, host, listen));
    const up = all.flatMap((fact) => (fact.is === 'up' ? [fact] : []));
    const serving = up.find((fact) => 'state' in fact && fact.state !== 'standby') ?? up[0];
    if (serving !== undefined) now[unit.key] = plain(serving.version);
  }
  return now;
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
