/** Installs the Debian packages of peers and programs, and starts none of their services. */

import { chmodSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { runOk } from '../fixtures/child.js';

const PATIENCE_MS = 900_000;
/** invoke-rc.d(8) asks it before it starts a service; 101 forbids it. */
const POLICY = '/usr/sbin/policy-rc.d';

export async function installPackages(packages: readonly string[]): Promise<void> {
  const isOurs = !existsSync(POLICY);
  if (isOurs) {
    writeFileSync(POLICY, '#!/bin/sh\nexit 101\n');
    chmodSync(POLICY, 0o755);
  }
  try {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    await runOk('apt-get', ['update', '-qq'], { env, timeoutMs: PATIENCE_MS });
    const install = ['install', '-y', '-qq', '--no-install-recommends', ...packages];
    await runOk('apt-get', install, { env, timeoutMs: PATIENCE_MS });
  } finally {
    if (isOurs) rmSync(POLICY);
  }
}
