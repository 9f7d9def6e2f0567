/**
 * Stack traces of the bundled programs (bundle.mjs) that name the TypeScript sources.
 *
 * Node's own --enable-source-maps parses every map when it loads the file, and that takes longer than loading the file. Here a
 * map is read when the first stack that has the file in it is formatted; most processes never read one.
 *
 * Invariant: a map is used only for the code that it belongs to. A map that changed after this process started is of another
 * build, which was put in the place of the running one; then the trace keeps the lines of the bundle.
 */

import { readFileSync, statSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { dirname, join } from 'node:path';

/** Undefined: the file has no map of this build. */
type Maps = Map<string, SourceMap | undefined>;

/** Formats the stacks of this process from now on. It never throws, whatever is on the disk. */
export function nameSourcesInStacks(): void {
  const maps: Maps = new Map();
  Error.prepareStackTrace = (error, sites) =>
    [Error.prototype.toString.call(error), ...sites.map((site) => `    at ${named(maps, site)}`)].join('\n');
}

function named(maps: Maps, site: NodeJS.CallSite): string {
  const text = site.toString();
  const file = site.getFileName();
  const [line, column] = [site.getLineNumber(), site.getColumnNumber()];
  if (!file?.startsWith('/') || line === null || column === null) return text;
  if (!maps.has(file)) maps.set(file, mapOf(file));
  const entry = maps.get(file)?.findEntry(line - 1, column - 1);
  if (entry === undefined || !('originalSource' in entry)) return text;
  const source = join(dirname(file), entry.originalSource);
  return text.replace(
    `${file}:${line}:${column}`,
    `${source}:${entry.originalLine + 1}:${entry.originalColumn + 1}`,
  );
}

function mapOf(file: string): SourceMap | undefined {
  try {
    const map = `${file}.map`;
    // ctime: an archive can bring any other time with it.
    if (statSync(map).ctimeMs > performance.timeOrigin) return undefined;
    return new SourceMap(JSON.parse(readFileSync(map, 'utf8')));
  } catch {
    // The file has none (it is no bundle), or it is damaged: the trace then has the lines of the file.
    return undefined;
  }
}
