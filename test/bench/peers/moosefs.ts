/**
 * MooseFS with one chunk server, and one copy of each file. Its chunk server refuses a master on a loopback address, so
 * servers and clients have a network namespace of their own, which a process of the site holds and which ends with it.
 */

import { copyFileSync, existsSync, statfsSync, writeFileSync } from 'node:fs';
import type { Peer } from '../peer.js';
import type { Site } from '../site.js';
import { startServed } from './served.js';

/** Of that namespace alone. */
const ADDRESS = '10.0.0.1';
const PORTS = { clients: 9421, chunkServers: 9420, metaloggers: 9419, chunks: 9422 };
/** A namespace begins without an address. */
const HOLD = `ip link set lo up && ip addr add ${ADDRESS}/32 dev lo && echo ready && exec sleep infinity`;
const EMPTY_METADATA = '/var/lib/mfs/metadata.mfs.empty';

function writeConfig(path: string, settings: Readonly<Record<string, string | number>>): string {
  writeFileSync(
    path,
    Object.entries(settings)
      .map((setting) => `${setting.join(' = ')}\n`)
      .join(''),
  );
  return path;
}

/** @returns the configurations of master and chunk server. Both keep all that they have on the device. */
async function configure(site: Site, folder: string): Promise<{ master: string; chunks: string }> {
  const own = site.makeFolder('moosefs');
  const [metadata, chunks, state] = [`${folder}/metadata`, `${folder}/chunks`, `${folder}/state`];
  await site.helper('mkdir', ['-p', metadata, chunks, state]);
  if (!existsSync(`${metadata}/metadata.mfs`)) copyFileSync(EMPTY_METADATA, `${metadata}/metadata.mfs`);
  writeFileSync(`${own}/exports.cfg`, `${ADDRESS} / rw,alldirs,admin,maproot=0:0\n`);
  writeFileSync(`${own}/disks.cfg`, `${chunks}\n`);
  writeFileSync(`${own}/topology.cfg`, '');
  const user = { WORKING_USER: 'root', WORKING_GROUP: 'root', SYSLOG_IDENT: 'bench-moosefs' };
  const listen = (name: string, port: number): Record<string, string | number> => ({
    [`${name}_LISTEN_HOST`]: ADDRESS,
    [`${name}_LISTEN_PORT`]: port,
  });
  const master = writeConfig(`${own}/master.cfg`, {
    ...user,
    DATA_PATH: metadata,
    EXPORTS_FILENAME: `${own}/exports.cfg`,
    TOPOLOGY_FILENAME: `${own}/topology.cfg`,
    ...listen('MATOML', PORTS.metaloggers),
    ...listen('MATOCS', PORTS.chunkServers),
    ...listen('MATOCL', PORTS.clients),
  });
  const chunkServer = writeConfig(`${own}/chunks.cfg`, {
    ...user,
    DATA_PATH: state,
    HDD_CONF_FILENAME: `${own}/disks.cfg`,
    // Otherwise it takes no chunk on a device as small as these.
    HDD_LEAVE_SPACE_DEFAULT: '64MiB',
    MASTER_RECONNECTION_DELAY: 1,
    MASTER_HOST: ADDRESS,
    MASTER_PORT: PORTS.chunkServers,
    BIND_HOST: ADDRESS,
    ...listen('CSSERV', PORTS.chunks),
  });
  return { master, chunks: chunkServer };
}

export const MOOSEFS: Peer = {
  name: 'moosefs',
  commands: ['mfsmaster', 'mfschunkserver', 'mfsmount', 'mfssetgoal', 'ip'],
  packages: ['moosefs-master', 'moosefs-chunkserver', 'moosefs-client', 'iproute2'],
  secondMount: 'client',
  hasClient: true,
  async start(site) {
    const holder = site.daemon('server', 'unshare', ['--net', 'sh', '-c', HOLD]);
    await holder.line(/^ready/);
    const inside = (command: string, ...args: string[]): readonly [string, readonly string[]] => [
      'nsenter',
      [`--net=/proc/${holder.pid}/ns/net`, command, ...args],
    ];
    return await startServed(site, 'moosefs', {
      async startServer(folder) {
        const configs = await configure(site, folder);
        const master = site.daemon('server', ...inside('mfsmaster', '-c', configs.master, '-f', 'start'));
        await master.line(/daemon initialized properly/);
        const chunks = site.daemon(
          'server',
          ...inside('mfschunkserver', '-c', configs.chunks, '-f', 'start'),
        );
        await chunks.line(/daemon initialized properly/);
        // In the order in which they end.
        return [chunks, master];
      },
      mountCommand: (mountpoint) => {
        const server = ['-H', ADDRESS, '-P', String(PORTS.clients)];
        return inside('mfsmount', mountpoint, '-f', ...server, '-o', 'allow_other,default_permissions');
      },
      // The master knows of space when the chunk server has registered; a write before that is tried again after seconds.
      isUsable: (mountpoint) => statfsSync(mountpoint).bavail > 0,
      async firstMount(mountpoint) {
        await site.helper(...inside('mfssetgoal', '-r', '1', mountpoint));
        await site.helper(...inside('mfssettrashtime', '-r', '0', mountpoint));
      },
    });
  },
};
