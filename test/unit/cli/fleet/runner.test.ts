/** A command reaches the shell of its host as one word, whatever is in it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { commandLine, lastObject, runOn } from '../../../../src/cli/fleet/runner.js';

const HOST = { name: 'a', address: 'a', run: 'sh -c', keys: [] };

test('words of a command arrive as they are', async () => {
  const words = ['printf', '%s|', 'a b', "it's", '$HOME', '"x"', ';', '{"y":1}'];
  const { status, stdout } = await runOn(HOST, commandLine(words), 10_000);
  assert.deepEqual([status, stdout], [0, `a b|it's|$HOME|"x"|;|{"y":1}|`]);
});

test('a failure has its status and the last line that it said, and a command that does not end is ended', async () => {
  const failed = await runOn(HOST, 'echo one >&2; echo two >&2; exit 3', 10_000);
  assert.deepEqual([failed.status, failed.why], [3, 'two']);
  const late = await runOn(HOST, 'exec sleep 1000', 100);
  assert.deepEqual([late.status, late.why], [null, 'no end within 0.1 s']);
});

test('an answer is found between what a shell and a runner say, and something else is none', () => {
  assert.deepEqual(lastObject('Welcome {to} this host\n{"a":1}\nbye\n'), { a: 1 });
  assert.deepEqual(['', 'Welcome', '{"a":', '[1]'].map(lastObject), [
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});

test('a command that is too long for the system fails as any other', async () => {
  const { status, why } = await runOn(HOST, 'x'.repeat(4 << 20), 10_000);
  assert.equal(status, null);
  assert.match(why, /E2BIG/);
});
