/** Each flag that INIT agrees on has its duties written down, with a test that exists. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { initFlagNames } from '../../../src/fuse/constants.js';
import { WANTED_FLAGS } from '../../../src/fuse/init.js';

/** From dist/test/unit/fuse. */
const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));

test('every flag of INIT has its duty and a test of it in docs/ARCHITECTURE.md', () => {
  const page = readFileSync(join(ROOT, 'docs/ARCHITECTURE.md'), 'utf8');
  const rows = [...page.matchAll(/^\| ([A-Z0-9_]{5,}) \| .+ \| (.+) \|$/gm)];
  const flags = rows.map(([, flag]) => flag);
  assert.deepEqual([...flags].sort(), initFlagNames(WANTED_FLAGS).sort());
  const sources = ['unit', 'mount', 'fixtures']
    .flatMap((folder) =>
      readdirSync(join(ROOT, 'test', folder), { encoding: 'utf8', recursive: true }).map((name) =>
        join(ROOT, 'test', folder, name),
      ),
    )
    .filter((path) => path.endsWith('.ts'))
    .map((path) => readFileSync(path, 'utf8'));
  const missing = rows.filter(
    ([, , title]) => !sources.some((source) => source.includes(`'${title?.replaceAll("'", "\\'")}'`)),
  );
  assert.deepEqual(
    missing.map(([, flag, title]) => [flag, title]),
    [],
  );
});
