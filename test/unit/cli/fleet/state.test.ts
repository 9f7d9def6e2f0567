/** What a fleet command remembers, and how two of them are kept apart. */

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import {
  ask,
  asked,
  beginState,
  editedSince,
  isLocked,
  longestPause,
  readState,
  stateForRollback,
  stateForUpgrade,
  tryLock,
  withPauses,
  writeState,
} from '../../../../src/cli/fleet/state.js';

function statePath(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-fleet-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'state.json');
}

test('an upgrade goes on with what it began from, and another one does not begin meanwhile', () => {
  const begun = {
    ...beginState('upgrade', '2.0.0', { x: '1.0.0' }, 'then'),
    progress: 'failed' as const,
    failure: 'why',
  };
  const again = stateForUpgrade(begun, '2.0.0', { x: '2.0.0', y: '1.0.0' }, 'now');
  assert.deepEqual(
    [again.from, again.progress, again.failure],
    [{ x: '1.0.0', y: '1.0.0' }, 'running', undefined],
  );
  assert.throws(
    () => stateForUpgrade(begun, '3.0.0', {}, 'now'),
    /the upgrade to 2\.0\.0 is unfinished \(failed\)/,
  );
  const next = stateForUpgrade({ ...begun, progress: 'done' }, '3.0.0', { x: '2.0.0' }, 'now');
  assert.deepEqual([next.from, next.to], [{ x: '2.0.0' }, '3.0.0']);
});

test('a rollback needs an upgrade, and is not done twice', () => {
  assert.throws(() => stateForRollback(undefined), /no upgrade of this fleet is known/);
  const back = stateForRollback({
    ...beginState('upgrade', '2.0.0', { x: '1.0.0' }, 'then'),
    progress: 'aborted',
  });
  assert.deepEqual([back.doing, back.progress, back.from], ['rollback', 'running', { x: '1.0.0' }]);
  assert.throws(() => stateForRollback({ ...back, progress: 'done' }), /is done already/);
});

test('the state is read as it was written, and something else is refused', (t) => {
  const path = statePath(t);
  assert.equal(readState(path), undefined);
  const pauses = [
    { client: 'c', ms: 5, why: 'takeover' },
    { client: 'd', ms: 9, why: 'home' },
  ];
  const state = withPauses(beginState('upgrade', '2.0.0', {}, 'then'), pauses);
  writeState(path, state);
  assert.deepEqual(readState(path), state);
  assert.equal(longestPause(state)?.client, 'd');
  writeFileSync(path, '{"format":');
  assert.throws(() => readState(path), /is no state of a fleet/);
});

test('one command at a time has the lock, and others can ask it for something', async (t) => {
  const path = statePath(t);
  const lock = await tryLock(path);
  assert.ok(lock !== undefined);
  assert.deepEqual([await tryLock(path), await isLocked(path)], [undefined, true]);
  await new Promise((resolve) => lock.close(resolve));
  assert.equal(await isLocked(path), false);
  ask(path, 'abort');
  assert.equal(asked(path), 'abort');
  ask(path, undefined);
  assert.equal(asked(path), undefined);
});

test('a state that is torn, of another program or of another fleet is refused', (t) => {
  const path = statePath(t);
  const whole = beginState('upgrade', '2.0.0', { 'target home': '1.0.0' }, 'then');
  const wrong: unknown[] = [
    null,
    [],
    {},
    { ...whole, format: 99 },
    { ...whole, progress: 'odd' },
    { ...whole, to: '../2.0.0' },
    { ...whole, from: { x: '../../tmp/x' } },
    { ...whole, done: undefined },
  ];
  for (const value of wrong) {
    writeFileSync(path, JSON.stringify(value));
    assert.throws(() => readState(path), /is no state of a fleet/, JSON.stringify(value));
  }
  assert.deepEqual(editedSince(whole, ['target home'], path), []);
  assert.throws(() => editedSince(whole, ['target other'], path), /is of another fleet/);
  const edited = { ...whole, doing: 'rollback' as const, from: { x: '1.0.0', y: '1.0.0' } };
  assert.deepEqual(editedSince(edited, ['x', 'z'], path), [
    'y is not in the file any more, and stays as it is',
    'z had no version that is known when the upgrade began, and stays as it is',
  ]);
});

test('a state that cannot be written says so, leaves nothing and keeps the one before', (t) => {
  const path = statePath(t);
  const state = beginState('upgrade', '2.0.0', {}, 'then');
  writeState(path, state);
  // A device that is always full.
  symlinkSync('/dev/full', `${path}.new`);
  assert.throws(() => writeState(path, { ...state, progress: 'done' }), /cannot be written: ENOSPC/);
  assert.deepEqual([readState(path), readdirSync(join(path, '..'))], [state, ['state.json']]);
});

test('a fleet has one lock, by whatever link its folder is reached', async (t) => {
  const path = statePath(t);
  const link = `${join(path, '..')}-link`;
  symlinkSync(join(path, '..'), link);
  t.after(() => rmSync(link));
  const lock = await tryLock(join(link, 'state.json'));
  assert.ok(lock !== undefined);
  assert.equal(await isLocked(path), true);
  await new Promise((resolve) => lock.close(resolve));
});
