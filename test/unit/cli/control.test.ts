/** The control socket of a mount, when one process follows another. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';

const folder = mkdtempSync(join(tmpdir(), 'holdfast-control-'));
after(() => rmSync(folder, { recursive: true, force: true }));
process.env.HOLDFAST_RUNTIME_DIR = join(folder, 'run');
const { askControl, controlPath, serveControl } = await import('../../../src/cli/control.js');

async function who(mountpoint: string): Promise<unknown> {
  return (await askControl(mountpoint, { command: 'status' }))?.data;
}

test('a process that has a successor removes nothing from its place, whoever is there', async () => {
  const mountpoint = join(folder, 'handed');
  const first = await serveControl(mountpoint, async () => 'first');
  // The successor is about to come: a name that is removed now could be its own.
  first.close({ hasSuccessor: true });
  assert.equal(existsSync(controlPath(mountpoint)), true);
  assert.equal(await who(mountpoint), undefined);
  const second = await serveControl(mountpoint, async () => 'second');
  assert.equal(await who(mountpoint), 'second');
  second.close({ hasSuccessor: false });
  assert.deepEqual(readdirSync(dirname(controlPath(mountpoint))), []);
});

test('a process without a successor takes its name away, and leaves that of another one', async () => {
  const mountpoint = join(folder, 'mounted again');
  const first = await serveControl(mountpoint, async () => 'first');
  const path = controlPath(mountpoint);
  // Both are of this process: each needs a name of its own to bind.
  rmSync(path);
  const second = await serveControl(mountpoint, async () => 'second');
  first.close({ hasSuccessor: false });
  assert.equal(await who(mountpoint), 'second');
  second.close({ hasSuccessor: false });
  assert.deepEqual(readdirSync(dirname(path)), []);
});
