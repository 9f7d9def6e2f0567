/** The man pages: man(1) finds nothing wrong with them, and they have every command and option that --help has. */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { FLAG_OPTIONS, OWN_OPTIONS } from '../../mount/option_list.js';
import { packageRoot } from '../../native/binding.js';
import { run, runOk } from '../fixtures/child.js';
import { thisTree } from '../fixtures/installed_tree.js';
import { lacks } from './programs.js';

const folder = join(packageRoot(), 'dist', 'share', 'man', 'man8');
const SECTIONS = [
  ...['NAME', 'SYNOPSIS', 'DESCRIPTION', 'COMMANDS', 'MOUNT OPTIONS', 'EXIT STATUS', 'FILES', 'ENVIRONMENT'],
  ...['EXAMPLES', 'SEE ALSO'],
];

/** As a reader sees it, in lines wide enough for every word. */
async function rendered(page: string): Promise<string> {
  const env = { ...process.env, LC_ALL: 'C.UTF-8', MANWIDTH: '200' };
  const done = await run('man', ['--warnings', '-l', join(folder, page)], { env });
  assert.deepEqual([done.code, done.stderr], [0, '']);
  return done.stdout;
}

function sectionsOf(text: string): string[] {
  return [...text.matchAll(/^[A-Z][A-Z ]+$/gm)].map(([title]) => title);
}

/** Commands and their options, as help shows them to the user. */
async function shownByHelp(path: readonly string[]): Promise<string[]> {
  const help = await runOk(process.execPath, [thisTree().main, ...path, '--help']);
  const options = [...help.matchAll(/^ {2}(-\S.*?)(?: {2,}|$)/gm)].map(([, flags = '']) => flags);
  const [, list = ''] = /\nCommands:\n([\s\S]*)/.exec(help) ?? [];
  const commands = [...list.matchAll(/^ {2}([a-z]+)/gm)].map(([, name = '']) => name);
  const below: string[] = [];
  for (const name of commands.filter((one) => one !== 'help')) {
    below.push([...path, name].join(' '), ...(await shownByHelp([...path, name])));
  }
  return [...options.filter((flags) => !/--help|--version/.test(flags)), ...below];
}

describe('man pages', { skip: lacks('man', 'man-db') }, () => {
  test('holdfast(8) has every command, option and mount option', async () => {
    const text = await rendered('holdfast.8');
    assert.deepEqual(sectionsOf(text), SECTIONS);
    const shown = await shownByHelp([]);
    assert.ok(shown.includes('access rotate') && shown.includes('--drain-timeout <seconds>'));
    const words = [...OWN_OPTIONS, ...FLAG_OPTIONS].map(({ word }) => word);
    const missing = [...shown.map((one) => one.replace(/[<>]/g, '')), ...words].filter(
      (one) => !new RegExp(`^ +${one.replace(/[[\]|.]/g, '\\$&')}(?: |$)`, 'm').test(text),
    );
    assert.deepEqual(missing, []);
  });

  test('mount.holdfast(8) has the options of the helper and of the mount', async () => {
    const text = await rendered('mount.holdfast.8');
    const sections = SECTIONS.map((title) => (title === 'COMMANDS' ? 'OPTIONS' : title));
    assert.deepEqual(sectionsOf(text), sections);
    for (const word of ['-N namespace', '-f', 'cache=SIZE', 'umount_timeout=SECONDS', 'nodiratime'])
      assert.match(text, new RegExp(`^ +${word}(?: |$)`, 'm'));
  });
});
