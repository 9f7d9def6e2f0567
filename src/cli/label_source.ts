/**
 * `holdfast mount home DIR` while the server of home is still starting: its socket is not there yet, and then "home" reads like the
 * name of a host. This waits until the word is one of the two.
 */

import { lookup } from 'node:dns/promises';
import { watch } from 'node:fs';
import type { Source } from './common.js';
import { CliError } from './failure.js';
import { runtimeDir } from './installed.js';
import { isServedHere, localAddress } from './local_servers.js';

/** How often it asks for the name of a host again. A server that starts here is seen at once. */
const LOOK_AGAIN_MS = 1000;

/**
 * @param patienceMs how long it waits; undefined: without limit.
 * @param says hears once, at the beginning, that it waits.
 * @returns a source whose addresses can be used.
 * @throws CliError the word is neither a label nor a host.
 */
export async function settledSource(
  source: Source,
  patienceMs: number | undefined,
  says: (line: string) => void,
): Promise<Source> {
  const { word } = source;
  if (word === undefined) return source;
  const beganMs = performance.now();
  for (let isFirst = true; ; isFirst = false) {
    const changed = changeIn(runtimeDir());
    try {
      if (isServedHere(word)) return { label: word, addresses: [localAddress(word)] };
      if (await isHost(word)) return source;
      const what = `${word} is neither a filesystem that this host serves nor the name of a host`;
      const leftMs =
        patienceMs === undefined ? Number.POSITIVE_INFINITY : patienceMs - (performance.now() - beganMs);
      if (leftMs <= 0) throw new CliError(`${what}; is its server running? (holdfast status)`);
      if (isFirst)
        says(`${what}; waits ${patienceMs === undefined ? '' : `${patienceMs / 1000} s `}for its server`);
      await changed.within(Math.min(LOOK_AGAIN_MS, leftMs));
    } finally {
      changed.close();
    }
  }
}

async function isHost(word: string): Promise<boolean> {
  try {
    await lookup(word);
    return true;
  } catch {
    // No such host, or no name server answers: both may change.
    return false;
  }
}

/** Watches before the caller looks, so that it misses nothing in between. */
function changeIn(folder: string): { within(ms: number): Promise<void>; close(): void } {
  let hear: () => void = () => undefined;
  const heard = new Promise<void>((resolve) => {
    hear = resolve;
  });
  const watcher = watch(folder, hear);
  let timer: NodeJS.Timeout | undefined;
  return {
    within: (ms) => {
      timer = setTimeout(hear, ms);
      return heard;
    },
    close: () => {
      clearTimeout(timer);
      watcher.close();
    },
  };
}
