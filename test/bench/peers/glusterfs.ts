/**
 * GlusterFS with one brick: its server and client processes with graphs of their own, which are those of its management
 * daemon for a plain volume. The daemon itself would need the machine's configuration and takes no part in operations.
 */

import { writeFileSync } from 'node:fs';
import { freePort } from '../../fixtures/failover_pair.js';
import type { Peer } from '../peer.js';
import { listens, startServed } from './served.js';

interface Volume {
  readonly name: string;
  readonly type: string;
  readonly options?: Readonly<Record<string, string | number>>;
}

/** Each volume stands on the one before it. */
function graph(volumes: readonly Volume[]): string {
  return volumes
    .map(({ name, type, options = {} }, at) => {
      const below = volumes[at - 1];
      const lines = Object.entries(options).map(([option, value]) => `  option ${option} ${value}`);
      if (below !== undefined) lines.push(`  subvolumes ${below.name}`);
      return `volume ${name}\n  type ${type}\n${lines.join('\n')}\nend-volume\n`;
    })
    .join('\n');
}

const CLIENT_CACHES: readonly Volume[] = [
  { name: 'write-behind', type: 'performance/write-behind' },
  { name: 'readdir-ahead', type: 'performance/readdir-ahead' },
  { name: 'open-behind', type: 'performance/open-behind' },
  { name: 'quick-read', type: 'performance/quick-read' },
  { name: 'md-cache', type: 'performance/md-cache' },
];

export const GLUSTERFS: Peer = {
  name: 'glusterfs',
  commands: ['glusterfs', 'glusterfsd'],
  packages: ['glusterfs-server', 'glusterfs-client'],
  secondMount: 'client',
  hasClient: true,
  async start(site) {
    const port = await freePort();
    const folder = site.makeFolder('gluster');
    const tcp = { 'transport-type': 'tcp' };
    const clientGraph = `${folder}/client.vol`;
    const remote = { ...tcp, 'remote-host': '127.0.0.1', 'remote-port': port, 'remote-subvolume': 'brick' };
    writeFileSync(
      clientGraph,
      graph([{ name: 'remote', type: 'protocol/client', options: remote }, ...CLIENT_CACHES]),
    );
    let mounts = 0;
    return await startServed(site, 'glusterfs', {
      async startServer(served) {
        const brick = `${served}/brick`;
        await site.helper('mkdir', ['-p', brick]);
        const listen = { 'transport.socket.listen-port': port, 'transport.socket.bind-address': '127.0.0.1' };
        const serverGraph = `${folder}/server.vol`;
        const volumes = [
          { name: 'posix', type: 'storage/posix', options: { directory: brick } },
          { name: 'locks', type: 'features/locks' },
          { name: 'brick', type: 'performance/io-threads' },
          {
            name: 'server',
            type: 'protocol/server',
            options: { ...tcp, ...listen, 'auth.addr.brick.allow': '*' },
          },
        ];
        writeFileSync(serverGraph, graph(volumes));
        const server = site.daemon('server', 'glusterfsd', [
          '-N',
          '-f',
          serverGraph,
          '-l',
          `${folder}/server.log`,
        ]);
        await listens(port, server);
        return [server];
      },
      mountCommand: (mountpoint) => {
        const log = `${folder}/client-${++mounts}.log`;
        return ['glusterfs', ['-N', '-f', clientGraph, '-l', log, mountpoint]];
      },
    });
  },
};
