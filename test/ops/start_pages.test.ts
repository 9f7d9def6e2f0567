/** docs/start: the commands of each page, run in the order in which a reader runs them, print what the page shows. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { blocksOf, isShown, type PageBlock } from '../fixtures/page_script.js';
import { type PageHost, PageWorld } from '../fixtures/page_world.js';
import { until } from '../fixtures/until.js';

const folder = join(packageRoot(), 'docs', 'start');

/** On a slow machine, for a whole page. */
const LIMIT_MS = 480_000;
const REPEAT_MS = 120_000;

const MKFS = 'holdfast mkfs --meta /dev/vg/home-meta --data /dev/vg/home-data --label home';
/** What the reader of FIRST.md has. */
const SERVED = `${MKFS}
holdfast serve --meta /dev/vg/home-meta --data /dev/vg/home-data --listen 10.0.0.1:7988 >>/var/log/holdfast-home.log 2>&1 &
mkdir /mnt/home
holdfast mount home /mnt/home`;

/** The file of the unit holdfast-serve@home (docs/OPERATIONS.md), and the unit started. */
function unit(address: string): string {
  const lines = [
    'HOLDFAST_META=/dev/vg/home-meta',
    'HOLDFAST_DATA=/dev/vg/home-data',
    `HOLDFAST_LISTEN=${address}:7988`,
    'HOLDFAST_OPTIONS=--standby',
  ];
  return `printf '%s\\n' ${lines.join(' ')} >/etc/holdfast/home.conf && systemctl start holdfast-serve@home`;
}

interface Page {
  /** The first one is where blocks run that name none. */
  readonly hosts: readonly PageHost[];
  /** What the reader has done before: host and commands, in their order. */
  readonly before: readonly (readonly [PageHost, string])[];
}

const PAGES: Readonly<Record<string, Page>> = {
  'FIRST.md': { hosts: ['a', 'web1'], before: [] },
  'UPGRADE.md': { hosts: ['a'], before: [['a', SERVED]] },
  'PAIR.md': { hosts: ['a', 'b', 'web1'], before: [['a', MKFS]] },
  'FLEET.md': {
    hosts: ['admin', 'a', 'b', 'web1'],
    before: [
      ['a', `${MKFS}\n${unit('10.0.0.1')}`],
      ['b', unit('10.0.0.2')],
      [
        'a',
        'holdfast access add web1 --output web1.key && ssh root@10.0.0.11 "install -D -m 600 /dev/stdin /etc/holdfast/home.key" <web1.key',
      ],
      ['web1', 'mkdir /mnt/home && holdfast mount home@10.0.0.1,10.0.0.2 /mnt/home'],
    ],
  },
  'MONITOR.md': { hosts: ['a'], before: [['a', SERVED]] },
  'BACKUP.md': { hosts: ['a'], before: [['a', `${SERVED}\necho hello >/mnt/home/greeting`]] },
};

/** Has no commands; test/ops/trouble_page.test.ts provokes what it shows. */
const TROUBLE = 'TROUBLE.md';

/** Commands that do not run here, and why. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'dpkg -i holdfast_0.3.0_amd64.deb':
    'would change this machine; ops/package_debian installs both packages in a Debian of its own',
};

async function play(
  world: PageWorld,
  host: string,
  { commands, mode, path, prints }: PageBlock,
): Promise<void> {
  if (mode === 'elsewhere') return;
  if (mode === 'file') {
    await world.write(host, path ?? '', commands);
    return;
  }
  if (mode === 'repeat') {
    let last = '';
    await until(
      () => `it never prints what the page shows, last:\n${last}`,
      async () => {
        last = (await world.run(host, commands)).output;
        return isShown(last, prints ?? '');
      },
      REPEAT_MS,
    );
    return;
  }
  const { output, failed } = await world.run(host, commands);
  if (mode === 'runs') assert.deepEqual(failed, [], output);
  else assert.notDeepEqual(failed, [], output);
  assert.ok(prints === undefined || isShown(output, prints), `prints:\n${output}\nshown:\n${prints}`);
}

// Side by side: each page has hosts of its own, and they mostly wait.
describe('pages of docs/start', { concurrency: 3 }, () => {
  for (const [name, { hosts, before }] of Object.entries(PAGES)) {
    test(`${name}: what it shows is so`, { timeout: LIMIT_MS }, async (t) => {
      const world = await PageWorld.start(hosts);
      t.after(() => world.end());
      for (const [host, commands] of before) {
        const { output, failed } = await world.run(host, commands);
        assert.deepEqual(failed, [], `before the page: ${output}`);
      }
      for (const block of blocksOf(readFileSync(join(folder, name), 'utf8'))) {
        try {
          await play(world, block.host ?? hosts[0] ?? 'a', block);
        } catch (cause) {
          throw new Error(`docs/start/${name}, line ${block.line}: ${(cause as Error).message}`, { cause });
        }
      }
    });
  }

  test('every page is tested, and what is not run has a reason', () => {
    const pages = readdirSync(folder);
    assert.deepEqual(pages.sort(), [...Object.keys(PAGES), TROUBLE].sort());
    const left = pages.flatMap((name) =>
      blocksOf(readFileSync(join(folder, name), 'utf8'))
        .filter(({ mode }) => mode === 'elsewhere')
        .flatMap(({ commands }) => commands.split('\n')),
    );
    assert.deepEqual([...new Set(left)].sort(), Object.keys(ELSEWHERE).sort());
  });
});
