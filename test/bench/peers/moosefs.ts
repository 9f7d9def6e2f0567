/** MooseFS with one chunk server, and one copy of each file. */

import { copyFileSync, existsSync, writeFileSync } from 'node:fs';
import { freePort } from '../../fixtures/failover_pair.js';
import type { Peer } from '../peer.js';
import type { Site } from '../site.js';
import { listens, startServed } from './served.js';

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

interface Ports {
  readonly clients: number;
  readonly chunkServers: number;
  readonly metaloggers: number;
  readonly chunks: number;
}

async function choosePorts(): Promise<Ports> {
  const [clients, chunkServers] = [await freePort(), await freePort()];
  return { clients, chunkServers, metaloggers: await freePort(), chunks: await freePort() };
}

/** @returns the configurations of master and chunk server. Both keep all that they have on the device. */
async function configure(
  site: Site,
  folder: string,
  ports: Ports,
): Promise<{ master: string; chunks: string }> {
  const own = site.makeFolder('moosefs');
  const [metadata, chunks, state] = [`${folder}/metadata`, `${folder}/chunks`, `${folder}/state`];
  await site.helper('mkdir', ['-p', metadata, chunks, state]);
  if (!existsSync(`${metadata}/metadata.mfs`)) copyFileSync(EMPTY_METADATA, `${metadata}/metadata.mfs`);
  writeFileSync(`${own}/exports.cfg`, '127.0.0.1 / rw,alldirs,admin,maproot=0:0\n127.0.0.1 . rw\n');
  writeFileSync(`${own}/disks.cfg`, `${chunks}\n`);
  writeFileSync(`${own}/topology.cfg`, '');
  const user = { WORKING_USER: 'root', WORKING_GROUP: 'root', SYSLOG_IDENT: 'bench-moosefs' };
  const listen = (name: string, port: number): Record<string, string | number> => ({
    [`${name}_LISTEN_HOST`]: '127.0.0.1',
    [`${name}_LISTEN_PORT`]: port,
  });
  const master = writeConfig(`${own}/master.cfg`, {
    ...user,
    DATA_PATH: metadata,
    EXPORTS_FILENAME: `${own}/exports.cfg`,
    TOPOLOGY_FILENAME: `${own}/topology.cfg`,
    ...listen('MATOML', ports.metaloggers),
    ...listen('MATOCS', ports.chunkServers),
    ...listen('MATOCL', ports.clients),
  });
  const chunkServer = writeConfig(`${own}/chunks.cfg`, {
    ...user,
    DATA_PATH: state,
    HDD_CONF_FILENAME: `${own}/disks.cfg`,
    // Otherwise it takes no chunk on a device as small as these.
    HDD_LEAVE_SPACE_DEFAULT: '64MiB',
    MASTER_HOST: '127.0.0.1',
    MASTER_PORT: ports.chunkServers,
    BIND_HOST: '127.0.0.1',
    ...listen('CSSERV', ports.chunks),
  });
  return { master, chunks: chunkServer };
}

export const MOOSEFS: Peer = {
  name: 'moosefs',
  commands: ['mfsmaster', 'mfschunkserver', 'mfsmount', 'mfssetgoal'],
  packages: ['moosefs-master', 'moosefs-chunkserver', 'moosefs-client'],
  secondMount: 'client',
  hasClient: true,
  async start(site) {
    const ports = await choosePorts();
    return await startServed(site, 'moosefs', {
      async startServer(folder) {
        const configs = await configure(site, folder, ports);
        const master = site.daemon('server', 'mfsmaster', ['-c', configs.master, '-f', 'start']);
        await listens(ports.clients, master);
        const chunks = site.daemon('server', 'mfschunkserver', ['-c', configs.chunks, '-f', 'start']);
        await listens(ports.chunks, chunks);
        // In the order in which they end.
        return [chunks, master];
      },
      mountCommand: (mountpoint) => {
        const server = ['-H', '127.0.0.1', '-P', String(ports.clients)];
        return ['mfsmount', [mountpoint, '-f', ...server, '-o', 'allow_other,default_permissions']];
      },
      async firstMount(mountpoint) {
        await site.helper('mfssetgoal', ['-r', '1', mountpoint]);
        await site.helper('mfssettrashtime', ['-r', '0', mountpoint]);
      },
    });
  },
};
