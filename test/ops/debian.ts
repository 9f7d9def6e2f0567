/**
 * A bare Debian in a folder, for the tests of packages. debootstrap makes it, and downloads about 60 MB; a machine without a mirror skips.
 * HOLDFAST_DEBIAN=bookworm takes only one release, an empty HOLDFAST_DEBIAN none, HOLDFAST_DEBIAN_MIRROR another mirror.
 */

import { runOk } from '../fixtures/child.js';
import { lacks } from './programs.js';

export const RELEASES = (process.env.HOLDFAST_DEBIAN ?? 'bookworm,trixie')
  .split(',')
  .filter((name) => name !== '');
const MIRROR = process.env.HOLDFAST_DEBIAN_MIRROR ?? 'http://deb.debian.org/debian';
const MIRROR_TIMEOUT_MS = 10_000;
const DEBOOTSTRAP_TIMEOUT_MS = 1_200_000;

/** @returns what to give as `skip`: false, or why. */
export async function lacksDebian(): Promise<string | false> {
  return (
    (RELEASES.length === 0 ? 'HOLDFAST_DEBIAN names no release' : false) ||
    (process.getuid?.() !== 0 ? 'debootstrap needs root' : false) ||
    lacks('debootstrap', 'debootstrap') ||
    lacks('dpkg-deb', 'dpkg') ||
    lacks('readelf', 'binutils') ||
    (await noMirror())
  );
}

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

/** @param packages of Debian, besides those that every system has. */
export async function bootstrap(
  release: string,
  folder: string,
  packages: readonly string[] = [],
): Promise<void> {
  const included = packages.length === 0 ? [] : [`--include=${packages.join(',')}`];
  // A mount namespace of its own: debootstrap mounts /proc in the new system. What others unmount meanwhile goes here too.
  const words = [
    '-m',
    '--propagation',
    'slave',
    'debootstrap',
    '--variant=minbase',
    ...included,
    release,
    folder,
    MIRROR,
  ];
  await runOk('unshare', words, { timeoutMs: DEBOOTSTRAP_TIMEOUT_MS });
}
