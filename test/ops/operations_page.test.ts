/**
 * Every holdfast command that a page shows exists, with the options it is shown with; and what docs/OPERATIONS.md names is there.
 * test/ops/start_pages.test.ts runs the commands of docs/start.
 */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { run } from '../fixtures/child.js';
import { thisTree } from '../fixtures/installed_tree.js';

const page = readFileSync(join(packageRoot(), 'docs', 'OPERATIONS.md'), 'utf8');

/** What users read. */
const pages = ['README.md', ...['docs', 'docs/start'].flatMap((folder) => markdownIn(folder))];

function markdownIn(folder: string): string[] {
  return readdirSync(join(packageRoot(), folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name));
}

/** Code of the page, in lines (indented, or between fences of sh) and within them. */
function codeOf(text: string): string[] {
  const joined = text.replaceAll('\\\n', ' ');
  const blocks = [...joined.matchAll(/^ {4,}(\S.*)$/gm)].map(([, line = '']) => line);
  const fenced = [...joined.matchAll(/^```sh.*\n([^`]*)```$/gm)].flatMap(([, text = '']) => text.split('\n'));
  const inline = [...joined.matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code);
  return [...blocks, ...fenced, ...inline];
}

/** Command and options of each call of holdfast. */
function calls(
  text: string,
): { readonly command: string; readonly options: readonly string[]; readonly text: string }[] {
  return codeOf(text).flatMap((code) => {
    const [, command = '', rest = ''] = /(?:^|\/|\s)holdfast ((?:access )?[a-z]+)\b(.*)$/.exec(code) ?? [];
    if (command === '') return [];
    return [{ command, options: rest.match(/(?<=\s)--[a-z-]+/g) ?? [], text: code }];
  });
}

test('every command and option that a page shows is one', async () => {
  const found = pages.flatMap((path) => calls(readFileSync(join(packageRoot(), path), 'utf8')));
  for (const name of ['mkfs', 'serve', 'mount', 'umount', 'status', 'shutdown', 'evict']) {
    assert.ok(
      found.some(({ command }) => command === name),
      `${name} is shown`,
    );
  }
  const helps = new Map<string, string>();
  for (const { command, options, text } of found) {
    if (!helps.has(command)) {
      const help = await run(process.execPath, [thisTree().main, ...command.split(' '), '--help']);
      assert.ok(help.code === 0 && help.stdout.includes(`holdfast ${command}`), `${text}: ${help.stderr}`);
      helps.set(command, help.stdout);
    }
    for (const option of options) assert.match(helps.get(command) ?? '', new RegExp(`${option}\\b`), text);
  }
});

test('every parameter of the resource agent that the page sets is one', () => {
  const agent = readFileSync(join(packageRoot(), 'mount', 'ocf', 'holdfast'), 'utf8');
  const lines = codeOf(page).filter((code) => /pcs resource (create|update) home /.test(code));
  const set = lines.flatMap((line) =>
    [...(line.split(' op ')[0]?.matchAll(/ ([a-z_]+)=/g) ?? [])].map(([, name]) => name),
  );
  assert.ok(set.includes('meta') && set.includes('options'));
  const known = [...agent.matchAll(/<parameter name="(\w+)"/g)].map(([, name]) => name);
  assert.deepEqual(
    set.filter((name) => !known.includes(name)),
    [],
  );
});

test('the files that the page says to install are there', () => {
  for (const path of ['mount/ocf/holdfast', 'mount/systemd', 'dist/bin/main.js']) {
    assert.ok(page.includes(path), path);
    assert.ok(existsSync(join(packageRoot(), path)), path);
  }
});
