/** How commands read what people write: what is absurd is refused, and nothing is read as something else. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Command } from 'commander';
import { registerAccess } from '../../../src/cli/access.js';
import {
  parseAccessName,
  parseCount,
  parseDuration,
  parseRanges,
  parseServer,
  parseSource,
} from '../../../src/cli/common.js';

const refused = { code: 'commander.invalidArgument' };

test('a number of things is written in digits', () => {
  assert.deepEqual([parseCount('1', 10), parseCount('10', 10), parseCount('007', 10)], [1, 10, 7]);
  for (const text of [
    '',
    '0',
    '11',
    '-1',
    '+1',
    ' 1',
    '1.0',
    '1e1',
    '0x1',
    'one',
    'Infinity',
    '9'.repeat(400),
  ]) {
    assert.throws(() => parseCount(text, 10), refused, text);
  }
});

test('a time has a unit', () => {
  assert.deepEqual([parseDuration('0'), parseDuration('90s'), parseDuration('7d')], [0, 90_000, 604_800_000]);
  for (const text of ['', '-1', '-1s', '1', '1.5h', '1e3s', '7 d', '7D', '99999d', `${'9'.repeat(400)}s`]) {
    assert.throws(() => parseDuration(text), refused, text);
  }
});

test('a mount point in the place of a server is no server', () => {
  for (const text of ['/mnt/home', './home', '../home', '//home'])
    assert.throws(() => parseServer(text), { ...refused, message: /is a path/ }, text);
  assert.deepEqual(parseServer('unix:/run/home.sock'), { host: '/run/home.sock', port: 0 });
});

test('a single word may be the label of a server that is about to start', () => {
  const words = ['home', 'home:7988', 'home@host', 'a,b', '10.0.0.1'].map((text) => parseSource(text).word);
  assert.deepEqual(words, ['home', undefined, undefined, undefined, '10.0.0.1']);
});

test('networks of an option that is given twice are all of them', () => {
  const first = parseRanges('10.1.0.0/16,10.2.0.0/16', undefined);
  assert.deepEqual(
    parseRanges('::1', first).map(({ text }) => text),
    ['10.1.0.0/16', '10.2.0.0/16', '::1/128'],
  );
});

test('the name of a client is one that it may have in the table', () => {
  for (const name of ['a', 'web-1.example_x', '0', 'x'.repeat(64)]) assert.equal(parseAccessName(name), name);
  for (const name of [
    '',
    '.',
    '..',
    '-a',
    '_a',
    'a b',
    'a/b',
    'a\nb',
    '\u00fc',
    'x'.repeat(65),
    'x'.repeat(10_000),
  ]) {
    assert.throws(() => parseAccessName(name), refused, JSON.stringify(name.slice(0, 99)));
  }
});

test('a certificate has no file for a key', async () => {
  const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
  registerAccess(program);
  // Commander copies these settings only to commands that it makes itself.
  for (const command of program.commands.flatMap((one) => [one, ...one.commands]))
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  const wrong = program.parseAsync(['access', 'add', 'web', '--cert', '--output', 'f'], { from: 'user' });
  await assert.rejects(wrong, { code: 'commander.conflictingOption' });
});
