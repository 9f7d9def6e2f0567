import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lifecycle } from '../../../../src/server/lifecycle/lifecycle.js';
import { type LifecycleEffect, step } from '../../../../src/server/lifecycle/state.js';

test('an effect that throws does not keep those behind it from being applied, and makes the server fail', () => {
  const asked = { type: 'activateAsked' } as const;
  const applied: string[] = [];
  const lifecycle = new Lifecycle((effect: LifecycleEffect) => {
    applied.push(effect.do);
    if (applied.length === 1) throw new Error('a bug');
  });
  const { state, effects } = step(lifecycle.state, asked);
  assert.equal(effects.length, 2);
  lifecycle.happens(asked);
  const failed = step(state, { type: 'failed', cause: new Error('a bug') });
  const expected = [...effects, ...failed.effects].map((effect) => effect.do);
  assert.deepEqual([applied, lifecycle.state.name], [expected, failed.state.name]);
});

test('an event that an effect brings comes after all effects of the event before', () => {
  const applied: string[] = [];
  const lifecycle: Lifecycle = new Lifecycle((effect: LifecycleEffect) => {
    if (applied.length === 0) lifecycle.happens({ type: 'portClosed' });
    applied.push(effect.do);
  });
  const asked = { type: 'stopAsked' } as const;
  const first = step(lifecycle.state, asked);
  const second = step(first.state, { type: 'portClosed' });
  lifecycle.happens(asked);
  const all = [...first.effects, ...second.effects].map((effect) => effect.do);
  assert.deepEqual([applied, lifecycle.state.name], [all, second.state.name]);
});
