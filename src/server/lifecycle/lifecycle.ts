/**
 * Runs the state machine of state.ts: one event at a time. An event that comes while the effects of another one are applied
 * waits for them, so that no effect sees the state of a later event.
 */

import { INITIAL, type LifecycleEffect, type LifecycleEvent, type LifecycleState, step } from './state.js';

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
        for (const effect of effects) this.#apply(effect);
      }
    } finally {
      this.#isApplying = false;
    }
  }
}
