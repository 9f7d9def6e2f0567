/**
 * The packages in a bare Debian, 12 and 13: docs/INSTALL.md, command by command, with a server that is upgraded from one package to
 * the other under a mount. debian.ts says what it needs, and how to choose the releases.
 */

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { run, runOk } from '../fixtures/child.js';
import { bootstrap, lacksDebian, RELEASES } from './debian.js';

const root = packageRoot();
const fixtures = join(root, 'test', 'fixtures');

const skip = await lacksDebian();

/** The commands of each part of docs/INSTALL.md. */
function stepsOfPage(): Map<string, string[]> {
  const page = readFileSync(join(root, 'docs', 'INSTALL.md'), 'utf8');
  const steps = new Map<string, string[]>();
  for (const part of page.split(/^## /m).slice(1)) {
    const commands = [...part.matchAll(/^ {4}(\S.*)$/gm)].map(([, line = '']) => line);
    if (commands.length > 0) steps.set(part.slice(0, part.indexOf('\n')), commands);
  }
  return steps;
}

describe('packages in a bare Debian', { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-debian-'));
  const packages = join(folder, 'packages');
  const steps = stepsOfPage();
  const [first = '', second = ''] = new Set(
    [...steps.values()].flat().flatMap((line) => /holdfast_([\d.]+)_/.exec(line)?.[1] ?? []),
  );

  before(async () => {
    const make = [join(root, 'package.mjs'), '--out', packages, '--version'];
    await runOk(process.execPath, [...make, first], { timeoutMs: 120_000 });
    await runOk(process.execPath, [...make, second, '--only', 'deb'], { timeoutMs: 120_000 });
    mkdirSync(join(packages, 'steps'));
    const architecture = (await runOk('dpkg', ['--print-architecture'])).trim();
    for (const [name, commands] of steps) {
      const lines = commands.map((line) => `${line.replaceAll('_amd64.deb', `_${architecture}.deb`)}\n`);
      writeFileSync(join(packages, 'steps', name), lines.join(''));
    }
    cpSync(join(fixtures, 'package_debian.sh'), join(packages, 'package_debian.sh'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  for (const release of RELEASES) {
    test(`${release}: install, serve, mount, upgrade to a second package, remove`, async () => {
      const system = join(folder, release);
      await bootstrap(release, system);
      cpSync(packages, join(system, 'packages'), { recursive: true });
      const enter = ['-mnpf', '--kill-child', join(fixtures, 'in_chroot.sh'), system];
      const done = await run(
        'timeout',
        ['-k', '5', '240', 'unshare', ...enter, 'bash', '/packages/package_debian.sh', first, second],
        { timeoutMs: 250_000 },
      );
      assert.deepEqual(
        [done.stdout.split('\n'), done.code],
        [['installed', 'served', 'side by side', 'upgraded', 'removed', 'purged', 'archive'], 0],
        done.stderr,
      );
      rmSync(system, { recursive: true });
    });
  }
});
