/** Programs that the tests of this folder need and a machine may lack, and `holdfast` as a program in a PATH. */

import { accessSync, chmodSync, constants, mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Tree, thisTree } from '../fixtures/installed_tree.js';

/** @returns what to give as `skip`: false, or why. .ci/run installs all of them. */
export function lacks(program: string, debianPackage: string): string | false {
  for (const folder of ['/usr/sbin', '/usr/bin', ...(process.env.PATH ?? '').split(':')]) {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return false;
    } catch {
      // not there; the next folder
    }
  }
  return `${program} is not installed: apt-get install ${debianPackage}`;
}

/** A program that runs the tree's holdfast, as an installation puts it into the PATH. @returns its path. */
export function programOf(folder: string, tree: Tree = thisTree()): string {
  const bin = join(folder, `bin-${tree.version}`);
  mkdirSync(bin, { recursive: true });
  const path = join(bin, 'holdfast');
  writeFileSync(path, `#!/bin/sh\nexec '${process.execPath}' '${tree.main}' "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** A port that nobody listens on just now: whoever starts and stops servers by a fixed address needs one beforehand. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** What is pushed runs, last first, before the cluster looks whether something was left behind. */
export function cleanUpFirst(t: TestContext): (() => Promise<unknown>)[] {
  const steps: (() => Promise<unknown>)[] = [];
  t.after(async () => {
    for (const step of steps.reverse()) await step();
  });
  return steps;
}
