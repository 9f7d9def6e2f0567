/** The completions of bash and zsh in interactive shells: what the word before the cursor becomes when the user presses Tab. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { Child, run, runOk } from '../fixtures/child.js';
import { thisTree } from '../fixtures/installed_tree.js';
import { lacks } from './programs.js';

/** What is typed, a Tab after it, and the words that the command then gets. */
const CASES: readonly (readonly [typed: string, words: readonly string[]])[] = [
  ['mou', ['mount']],
  ['access ro', ['access', 'rotate']],
  ['serve --dr', ['serve', '--drain-timeout']],
  ['serve --meta x --log-level war', ['serve', '--meta', 'x', '--log-level', 'warning']],
  ['serve --tls=of', ['serve', '--tls=off']],
  ['umount --fo', ['umount', '--force']],
  ['completion z', ['completion', 'zsh']],
  ['access --he', ['access', '--help']],
  ['mkfs --meta dev', ['mkfs', '--meta', 'device']],
  ['mkfs --meta=dev', ['mkfs', '--meta=device']],
  ['access add web --output dev', ['access', 'add', 'web', '--output', 'device']],
  ['mount -o retry,umo', ['mount', '-o', 'retry,umount_timeout=']],
  ['mount -o cache=1g,umo', ['mount', '-o', 'cache=1g,umount_timeout=']],
  ['mount -o retry,driver=fu', ['mount', '-o', 'retry,driver=fuse-native']],
  ['mount -o retry,key=dev', ['mount', '-o', 'retry,key=device']],
];

/** What is typed must not be executed because Tab is pressed. (zsh executes it itself: expand-or-complete.) */
const HARMFUL = 'mount -o name=$(touch made),ret';

type Shell = 'bash' | 'zsh';

/** The command line of an interactive shell that has loaded the completion, and in which `holdfast` prints its words. */
function shellWith(folder: string, shell: Shell): string {
  const share = join(packageRoot(), 'dist', 'share', 'completion');
  const holdfast = `ran=0; holdfast() { ran=$((ran + 1)); printf '<%s>' $ran "$@"; echo; }; PS1='$ '; echo loaded`;
  if (shell === 'bash') {
    writeFileSync(join(folder, 'rc'), `source ${join(share, 'holdfast')}\n${holdfast}\n`);
    return 'bash --noprofile --rcfile rc -i';
  }
  const load = `autoload -U compinit; compinit -D -u; source ${join(share, '_holdfast')}`;
  writeFileSync(join(folder, '.zshrc'), `${load}\nunsetopt beep\n${holdfast}\n`);
  return `env ZDOTDIR=${folder} zsh -i`;
}

/** @returns what the command got in each of CASES. */
async function completedBy(t: TestContext, shell: Shell): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-completion-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'device'), '');
  // script gives the shell a terminal; a dumb one, so that it writes no control sequences between the lines.
  const line = `cd ${folder}; ${shellWith(folder, shell)}`;
  const env = { PATH: process.env.PATH, HOME: folder, TERM: 'dumb', SHELL: '/bin/sh' };
  const child = new Child(shell, 'script', ['-qec', line, '/dev/null'], env);
  t.after(async () => {
    child.process.stdin?.end('exit\n');
    await child.exited;
  });
  await child.line(/^loaded/);
  const found: string[] = [];
  for (const [typed] of CASES) {
    child.process.stdin?.write(`holdfast ${typed}\t\n`);
    const [words = ''] = await child.line(new RegExp(`<${found.length + 1}>[^\r]*`));
    found.push(words.replace(/^<\d+>/, ''));
  }
  // Ctrl-U takes the line away again.
  child.process.stdin?.write(`holdfast ${HARMFUL}\t\x15holdfast end\n`);
  await child.line(/<end>/);
  if (shell === 'bash') assert.equal(existsSync(join(folder, 'made')), false);
  return found;
}

const wanted = CASES.map(([, words]) => words.map((word) => `<${word}>`).join(''));

test('bash completes commands, options, their values, files and mount options', async (t) => {
  assert.deepEqual(await completedBy(t, 'bash'), wanted);
});

test('zsh completes the same', { skip: lacks('zsh', 'zsh') }, async (t) => {
  assert.deepEqual(await completedBy(t, 'zsh'), wanted);
});

test('holdfast completion prints what the build has installed', async () => {
  for (const [shell, file] of [
    ['bash', 'holdfast'],
    ['zsh', '_holdfast'],
  ] as const) {
    const printed = await runOk(process.execPath, [thisTree().main, 'completion', shell]);
    const kept = readFileSync(join(packageRoot(), 'dist', 'share', 'completion', file), 'utf8');
    assert.equal(`${printed}\n`, kept);
  }
  const refused = await run(process.execPath, [thisTree().main, 'completion', 'fish']);
  assert.deepEqual([refused.code, /Allowed choices are bash, zsh/.test(refused.stderr)], [2, true]);
});
