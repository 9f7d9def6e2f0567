/**
 * The packages in a bare Debian, 12 and 13: docs/INSTALL.md, command by command, with a server that is upgraded from one package to
 * the other under a mount. The Debian is made by debootstrap, which downloads about 60 MB for each; a machine without a mirror skips.
 * HOLDFAST_DEBIAN=bookworm takes only one, an empty HOLDFAST_DEBIAN none, HOLDFAST_DEBIAN_MIRROR another mirror.
 */

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { run, runOk } from '../fixtures/child.js';
import { lacks } from './programs.js';

const RELEASES = (process.env.HOLDFAST_DEBIAN ?? 'bookworm,trixie').split(',').filter((name) => name !== '');
const MIRROR = process.env.HOLDFAST_DEBIAN_MIRROR ?? 'http://deb.debian.org/debian';
const MIRROR_TIMEOUT_MS = 10_000;
const DEBOOTSTRAP_TIMEOUT_MS = 400_000;
const root = packageRoot();
const fixtures = join(root, 'test', 'fixtures');

async function noMirror(): Promise<string | false> {
  try {
    const answer = await fetch(`${MIRROR}/dists/${RELEASES[0]}/Release`, {
      signal: AbortSignal.timeout(MIRROR_TIMEOUT_MS),
    });
    await answer.body?.cancel();
    return answer.ok ? false : `${MIRROR} answers ${answer.status}`;
  } catch (thrown) {
    return `${MIRROR} does not answer: ${thrown instanceof Error ? thrown.message : thrown}`;
  }
}

const skip =
  (RELEASES.length === 0 ? 'HOLDFAST_DEBIAN names no release' : false) ||
  (process.getuid?.() !== 0 ? 'debootstrap needs root' : false) ||
  lacks('debootstrap', 'debootstrap') ||
  lacks('dpkg-deb', 'dpkg') ||
  lacks('readelf', 'binutils') ||
  (await noMirror());

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
      // A mount namespace of its own: debootstrap mounts /proc in the new system.
      await runOk('unshare', ['-m', 'debootstrap', '--variant=minbase', release, system, MIRROR], {
        timeoutMs: DEBOOTSTRAP_TIMEOUT_MS,
      });
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
