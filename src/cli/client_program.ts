/** The program of a client process, as words: the interpreter, its options, and the file. */

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CliError } from './failure.js';

/**
 * V8's youngest generation takes up to three times this many MiB (16 unless told otherwise), and the memory of short-lived buffers
 * is given back when it is collected. Under a mixed load a client needs 30 to 60 MiB less this way, and no more processor time.
 */
export const SMALL_YOUNG_GENERATION = '--max-semi-space-size=4';

/** @param tree root of an installed version; absent: the one that this code runs from. @throws CliError if it has none. */
export function clientProgram(tree?: string): readonly string[] {
  if (tree === undefined) {
    const own = fileURLToPath(new URL('./main.js', import.meta.url));
    return [process.execPath, SMALL_YOUNG_GENERATION, own];
  }
  const root = resolve(tree);
  const main = join(root, 'dist', 'bin', 'main.js');
  if (!existsSync(main)) throw new CliError(`${root} has no Holdfast: ${main} is not there`);
  const bundled = join(root, 'bin', 'node');
  return [existsSync(bundled) ? bundled : process.execPath, SMALL_YOUNG_GENERATION, main];
}
