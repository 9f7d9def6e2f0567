/** The second driver: it passes the POSIX tests, but for what libfuse 2 and fuse-native cannot do. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { O } from '../fixtures/agent.js';
import { startCluster } from '../fixtures/cluster.js';
import { dataSuite } from '../fixtures/posix_data.js';
import { namespaceSuite } from '../fixtures/posix_namespace.js';
import { posixSuite } from '../fixtures/posix_suite.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';
import { within } from '../fixtures/until.js';

const mountOptions = ['driver=fuse-native'];
const NO_SHARED_MAPPINGS = 'no shared mappings';
/** docs/SEMANTICS.md has the table. */
const EXCLUDED: Readonly<Record<string, string>> = {
  'RENAME_NOREPLACE refuses what is there, RENAME_EXCHANGE swaps whatever the two are': 'no rename flags',
  'RENAME_WHITEOUT moves, and leaves a device that hides the old name, whatever moves and whatever is replaced':
    'no rename flags',
  'times beyond what a filesystem keeps become the nearest that it keeps': 'no times before 1970',
  'fallocate of each mode and copy_file_range by somebody else drop the set-id bits, those by root keep them':
    'no fallocate',
  'a write beyond what a file may be is EFBIG, a seek before its start EINVAL': 'no fallocate',
  'chmod, chown and utimensat change what they name, and the ctime':
    'utimensat sets both times to the access time',
  'permissions hold for those who are not root: modes, sticky directories, groups': 'no caller ids',
  'a write by somebody else drops the set-user-id and set-group-id bits': 'no caller ids',
  'names of 255 bytes and of any bytes work; longer ones are ENAMETOOLONG everywhere': 'names are UTF-8',
  'O_TMPFILE makes a file without a name, that linkat can give one': 'no O_TMPFILE',
  'a shared mapping shows writes and its stores are read, a private one keeps its own': NO_SHARED_MAPPINGS,
  'stores to a mapping that was never synced are there after its file was closed and opened again':
    NO_SHARED_MAPPINGS,
  'fallocate reserves, keeps the size when told, and refuses what it cannot do': 'no fallocate',
  'punched and zeroed ranges read as zeros, to the byte, in files and their mappings': 'no fallocate',
  'SEEK_DATA and SEEK_HOLE find what was written, before and after it is on the server': 'no SEEK_HOLE',
  'random writes, truncates, punches and reads agree with a model of the file': NO_SHARED_MAPPINGS,
};

const shared = sharedCluster({ mountOptions });
namespaceSuite(posixSuite(shared, EXCLUDED));
dataSuite(posixSuite(shared, EXCLUDED));

test('the driver says at mounting what it cannot do', async (t) => {
  const cluster = await startCluster(t, { mountOptions });
  const [mount] = cluster.mounts;
  const text = [...(mount?.child.stdout ?? []), ...(mount?.child.stderr ?? [])].join('\n');
  assert.match(text, /interrupt/);
});

test('files stay open and calls wait through an upgrade', async (t) => {
  const cluster = await startCluster(t, { mountOptions });
  const [agent, waiter] = [cluster.agent(), cluster.agent()];
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.pwrite(fd, 0, 'before');
  let waits: Promise<string> = Promise.resolve('');
  await cluster.upgrade(async () => {
    waits = waiter.readFile('f');
    await waiter.blocked();
  });
  assert.equal(await within('the call goes on', waits), 'before');
  await agent.pwrite(fd, 6, ' after');
  assert.equal(await waiter.readFile('f'), 'before after');
});
