/**
 * Runs the state machine of state.ts: one event at a time. An event that comes while the effects of another one are applied
 * waits for them, so that no effect sees the state of a later event.
 *
 * An effect that throws is a bug. The effects behind it are applied nevertheless, because a shutdown must come to its end; then
 * the server fails with that error.
 */

import { bugLogger } from '../../base/log.js';
import { INITIAL, type LifecycleEffect, type LifecycleEvent, type LifecycleState, step } from './state.js';

const bug = bugLogger('server');

export class Lifecycle {
  readonly #apply: (effect: LifecycleEffect) => void;
  readonly #events: LifecycleEvent[] = [];
  #state: LifecycleState = INITIAL;
  #isApplying = false;

  constructor(apply: (effect: LifecycleEffect) => void) {
    this.#apply = apply;
  }

  get state(): LifecycleState {
    return this.#state;
  }

  happens(event: LifecycleEvent): void {
    this.#events.push(event);
    if (this.#isApplying) return;
    this.#isApplying = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        const { state, effects } = step(this.#state, next);
        this.#state = state;
        for (const effect of effects) this.#try(effect);
      }
    } finally {
      this.#isApplying = false;
    }
  }

  #try(effect: LifecycleEffect): void {
    try {
      this.#apply(effect);
    } catch (thrown) {
      bug('%s in state %s: %O', effect.do, this.#state.name, thrown);
      this.#events.push({ type: 'failed', cause: errorOf(thrown) });
    }
  }
}

export function errorOf(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
