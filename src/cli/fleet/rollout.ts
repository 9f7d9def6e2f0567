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
  describeSeen,
  describeStep,
  fallbackStarts,
  hostsOf,
  isDone,
  isServedBy,
  type ServerStep,
  type Step,
  stepKey,
  stepsOf,
  type Unit,
  unitsOf,
  type Wanted,
} from './plan.js';
import { commandLine, lastObject, quoted, type Ran, runOn } from './runner.js';
import {
  asked,
  type FleetState,
  type SeenPause,
  withBegun,
  withDone,
  withPauses,
  writeState,
} from './state.js';
import { windowProblem } from './window.js';

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
  /** What was seen when it began. */
  readonly facts: Facts;
  /** The versions whose program looks at the hosts, the first one first. */
  readonly by: readonly string[];
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
    const { fleet, batches, facts } = this.#options;
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
      const { message } = thrown as Error;
      try {
        this.#save({ ...this.#state, progress: 'failed', failure: message });
      } catch (unsaved) {
        const why = (unsaved as Error).message;
        throw new CliError(message === why ? why : `${message}; ${why}`, 1, { cause: thrown });
      }
      throw thrown;
    }
    this.#save({ ...this.#state, progress: 'done' });
    return 'done';
  }

  async #batch({ group, units, beginsGroup }: Batch): Promise<'done' | 'aborted'> {
    let facts = await this.#look(units);
    const isLeft = (unit: Unit): boolean => this.#steps(unit, facts).length > 0;
    if (!units.some(isLeft)) return 'done';
    const seenMs = performance.now();
    if ((await this.#mayGoOn()) === 'abort') return 'aborted';
    if (this.#stepped && group.pauseMs > 0) {
      this.#options.say(
        `${beginsGroup ? `group ${group.name}` : 'the next ones'} in ${group.pauseMs / 1000} s`,
      );
      if ((await this.#rest(group.pauseMs)) === 'abort') return 'aborted';
    }
    // Somebody has let it wait.
    if (performance.now() - seenMs > POLL_MS) facts = await this.#look(units);
    const results = await Promise.allSettled(units.filter(isLeft).map((unit) => this.#bring(unit, facts)));
    const failed = results.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []));
    if (failed.length > 0)
      throw new CliError(failed.map(({ message }) => message).join('; '), 1, { cause: failed[0] });
    this.#stepped = true;
    await this.#healthy();
    return 'done';
  }

  /** Between two batches nothing is half done: here people may stop it, and here the maintenance window may end. */
  async #mayGoOn(): Promise<'go' | 'abort'> {
    const { fleet, say } = this.#options;
    for (let said = false; ; ) {
      const what = asked(fleet.statePath);
      if (what === 'abort') return 'abort';
      if (what === undefined) {
        if (said) this.#save({ ...this.#state, progress: 'running' });
        // Last: it may have closed during a pause.
        const problem = windowProblem(fleet.window, new Date());
        if (problem !== undefined) throw new CliError(problem);
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

  /** @param seen just now, of this unit and others. */
  async #bring(unit: Unit, seen: Facts): Promise<void> {
    const beganMs = performance.now();
    const evictions: string[] = [];
    let facts = seen;
    for (let count = 0; ; count++) {
      facts = await this.#answering(unit, facts);
      const [step] = this.#steps(unit, facts);
      if (step === undefined) break;
      if (count >= STEPS_MAX)
        throw new CliError(`${unit.key} does not come to an end: ${describeStep(step)}`);
      facts = await this.#step(unit, step, facts, evictions);
    }
    if (unit.is === 'target') await this.#notePauses(unit.target.label, performance.now() - beganMs);
    if (evictions.length > 0) throw new CliError(`${unit.key}: ${evictions.join('; ')}`);
  }

  /**
   * A host that does not answer may serve all the same, so nobody knows what the next step of its unit is. It may be on its way back.
   * @returns facts of the unit, with all its hosts. @throws CliError
   */
  async #answering(unit: Unit, seen: Facts): Promise<Facts> {
    const { startLimitMs } = this.#options.fleet;
    for (let facts = seen, endMs = performance.now() + startLimitMs; ; facts = await this.#look([unit])) {
      const away = hostsOf(unit).flatMap((name) => {
        const fact = facts.get(name);
        return fact?.is === 'there' ? [] : [`host ${name} does not answer: ${fact?.why}`];
      });
      if (away.length === 0) return facts;
      if (performance.now() >= endMs) throw new CliError(`${unit.key}: ${away.join('; ')}`);
      await delay(POLL_MS);
    }
  }

  /** @returns what is seen of the unit when the step is done. */
  async #step(unit: Unit, step: Step, facts: Facts, evictions: string[]): Promise<Facts> {
    const key = stepKey(step);
    const beganMs = performance.now();
    const wasLeft = this.#left.delete(key);
    const come = wasLeft ? await this.#until(LATE_MS, unit, step) : undefined;
    if (come !== undefined) {
      this.#done(key, step, beganMs);
      return come;
    }
    if (step.do === 'takeover') await this.#clientIsWell(unit, step, facts);
    const at = new Date().toISOString();
    this.#save(withBegun(this.#state, { key, at, text: describeStep(step) }));
    const ran = await this.#run(step, facts);
    const hasEvicted = step.do === 'shutdown' && ran.status === EVICTED_STATUS;
    if (hasEvicted) evictions.push(ran.why);
    const hasRun = ran.status === 0 || hasEvicted;
    // What was under way when the command was killed may refuse this one, and come to its end.
    const limitMs = hasRun || wasLeft ? this.#options.fleet.startLimitMs : LATE_MS;
    const after = await this.#until(limitMs, unit, step);
    if (after === undefined) {
      const seen = describeSeen(step, await this.#look([unit]));
      const why = hasRun ? `nothing of it is seen after ${limitMs / 1000} s: ${seen}` : ran.why;
      throw new CliError(`${describeStep(step)}: ${why}${await this.#asBefore(unit, step)}`);
    }
    if (step.do === 'takeover' && hasRun) this.#noteTakeover(unit, ran.stdout);
    this.#done(key, step, beganMs);
    return after;
  }

  #run(step: Step, facts: Facts): Promise<Ran> {
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
    const { start, stop } = step.target;
    if (step.do === 'start' || step.do === 'ready')
      return this.#on(place.host, this.#line(start, step), fleet.startLimitMs);
    if (stop !== undefined && step.do === 'shutdown')
      return this.#on(place.host, this.#line(stop, step), SHUTDOWN_MS);
    // By the version that has looked there: it runs.
    const fact = facts.get(place.host);
    const program = programOf(fleet, fact?.is === 'there' ? fact.version : (by[0] ?? step.version));
    return this.#on(place.host, commandLine([program, 'shutdown', place.listen]), SHUTDOWN_MS);
  }

  #line(template: string, { target, place, version }: ServerStep): string {
    const { fleet } = this.#options;
    return (
      template
        .replaceAll('{version}', quoted(version))
        .replaceAll('{host}', quoted(place.host))
        .replaceAll('{listen}', quoted(place.listen))
        .replaceAll('{label}', quoted(target.label))
        // Last, and by a function: a path may have any letters, such as $ or {host}.
        .replaceAll('{root}', () => quoted(rootOf(fleet, version)))
    );
  }

  async #on(name: string, command: string, limitMs: number): Promise<Ran> {
    const host = this.#options.fleet.hosts.find((one) => one.name === name);
    if (host === undefined) throw new CliError(`the file has no host ${name}`);
    return runOn(host, command, limitMs);
  }

  /** No event comes from another host. @returns what was seen, with what the step brings about; undefined: it did not come. */
  async #until(limitMs: number, unit: Unit, step: Step): Promise<Facts | undefined> {
    for (const endMs = performance.now() + limitMs; ; ) {
      const facts = await this.#look([unit]);
      if (isDone(step, facts)) return facts;
      if (performance.now() >= endMs) return undefined;
      await delay(POLL_MS);
    }
  }

  /** A mount whose server has just changed may be on its way back. */
  async #clientIsWell(
    unit: Unit,
    { client, version }: Extract<Step, { readonly do: 'takeover' }>,
    seen: Facts,
  ): Promise<void> {
    const { startLimitMs } = this.#options.fleet;
    for (let facts = seen, endMs = performance.now() + startLimitMs; ; facts = await this.#look([unit])) {
      const fact = mountFact(facts, client.host, client.mountpoint);
      if (fact.is === 'up' && fact.importState === 'FULL' && fact.gate === 'OPEN') return;
      if (performance.now() >= endMs) {
        const how =
          fact.is === 'down'
            ? `${fact.why}; mount it with ${version}, or take it out of the file`
            : `connection ${fact.importState}, gate ${fact.gate}`;
        throw new CliError(`${unit.key}: ${how}`);
      }
      await delay(POLL_MS);
    }
  }

  /**
   * A step of a target has failed: whoever stood by or served before does so again, if nobody else can. For that the other version
   * starts: on the way up the one before, on the way back the one of the upgrade. @returns what came of it, for people.
   */
  async #asBefore(unit: Unit, step: Step): Promise<string> {
    if (unit.is !== 'target' || step.do === 'takeover') return '';
    const { from, to } = this.#state;
    const before = from[unit.key];
    const other = before === step.version ? to : before;
    const starts = fallbackStarts(step, await this.#look([unit]), other);
    for (const start of starts) {
      await this.#run(start, new Map());
      const facts = await this.#until(this.#options.fleet.startLimitMs, unit, start);
      if (facts === undefined) continue;
      return `; ${other} ${isServedBy(start.place, facts) ? 'serves' : 'stands by for'} ${unit.target.label} again`;
    }
    const facts = await this.#look([unit]);
    const isServed = unit.target.servers.some((place) => isServedBy(place, facts));
    if (!isServed) return `; ${unit.target.label} is not served`;
    return starts.length > 0 ? `; ${unit.target.label} has no standby` : '';
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
    // How long it took is for people: an answer that cannot be read changes nothing of what was done.
    const told = lastObject(stdout) as Partial<TakenOver> | undefined;
    const silentMs = told?.silentMs;
    if (typeof silentMs !== 'number') return;
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
