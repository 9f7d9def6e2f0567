/**
 * The page of a fleet: looks at the hosts as `fleet FILE status` does, again and again while somebody reads the page, and at the state
 * of an upgrade whenever the command that carries it out writes it. It changes nothing.
 */

import { type FSWatcher, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { type Runtime, sleep, wallMs } from '../../runtime/ports.js';
import { describeFailure } from '../failure.js';
import { type Facts, plainVersion } from '../fleet/facts.js';
import type { Fleet } from '../fleet/file.js';
import { look } from '../fleet/observe.js';
import { unitsOf } from '../fleet/plan.js';
import { type FleetState, isLocked, lookers, readState } from '../fleet/state.js';
import { installedVersion } from '../installed.js';
import { fleetView } from './fleet_view.js';
import type { PageSource } from './page_server.js';
import type { FleetPageView } from './shapes.js';

/** Between two looks at the hosts: at least this, and twice as long as the look took, because hosts under load have other things to do. */
const REST_MS = 1000;
const REST_FACTOR = 2;

export class FleetPage implements PageSource {
  readonly #runtime: Pick<Runtime, 'timers' | 'clock'>;
  readonly #fleet: Fleet;
  readonly #changed: () => void;
  readonly #watcher: FSWatcher;
  #state: FleetState | undefined;
  #problem: string | undefined;
  #isRunning = false;
  #facts: Facts | undefined;
  #seenMs = 0;
  #looking: AbortController | undefined;

  /** @param changed called when there is something new to see. */
  constructor(runtime: Pick<Runtime, 'timers' | 'clock'>, fleet: Fleet, changed: () => void) {
    this.#runtime = runtime;
    this.#fleet = fleet;
    this.#changed = changed;
    const name = basename(fleet.statePath);
    this.#watcher = watch(dirname(fleet.statePath), (_event, file) => {
      if (file === null || file === name) void this.#readState();
    });
  }

  view(): FleetPageView {
    const { clock } = this.#runtime;
    return fleetView({
      fleet: this.#fleet,
      name: basename(this.#fleet.path),
      state: this.#state,
      isRunning: this.#isRunning,
      facts: this.#facts,
      seenMs: clock.nowMs() - this.#seenMs,
      nowMs: wallMs(clock),
      problem: this.#problem,
    });
  }

  watched(isWatched: boolean): void {
    this.#looking?.abort();
    this.#looking = undefined;
    if (!isWatched) return;
    const looking = new AbortController();
    this.#looking = looking;
    this.#lookOn(looking.signal).catch((thrown: unknown) => {
      if (!looking.signal.aborted) throw thrown;
    });
  }

  close(): void {
    this.#looking?.abort();
    this.#watcher.close();
  }

  async #lookOn(signal: AbortSignal): Promise<void> {
    const { clock, timers } = this.#runtime;
    for (;;) {
      await this.#readState();
      const own = plainVersion(installedVersion());
      const by = this.#state === undefined ? [own] : [...lookers(this.#state, this.#state.to), own];
      const beganMs = clock.nowMs();
      const facts = await look(this.#fleet, by, unitsOf(this.#fleet));
      signal.throwIfAborted();
      this.#facts = facts;
      this.#seenMs = clock.nowMs();
      this.#changed();
      await sleep(timers, Math.max(REST_MS, REST_FACTOR * (this.#seenMs - beganMs)), signal);
    }
  }

  /** A state that is no longer or not yet right is told on the page: the next one may be. */
  async #readState(): Promise<void> {
    const isRunning = await isLocked(this.#fleet.statePath);
    try {
      this.#state = readState(this.#fleet.statePath);
      this.#problem = undefined;
    } catch (thrown) {
      this.#problem = describeFailure(thrown).line;
    }
    this.#isRunning = isRunning;
    this.#changed();
  }
}
