/** sshfs over an sshd of its own: its own keys and port, and nothing of the machine's configuration. */

import { copyFileSync, writeFileSync } from 'node:fs';
import { freePort } from '../../fixtures/failover_pair.js';
import type { Peer } from '../peer.js';
import type { Site } from '../site.js';
import { listens, startServed } from './served.js';

const SSHD = '/usr/sbin/sshd';
/** sshd(8): the folder of the process without privileges must be there. */
const PRIVILEGE_SEPARATION = '/run/sshd';

/** @returns the configuration of the server, for clients that have the key `user`. */
async function configure(site: Site, port: number): Promise<string> {
  const folder = site.makeFolder('ssh', 0o700);
  for (const name of ['host', 'user']) {
    await site.helper('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', `${folder}/${name}`]);
  }
  copyFileSync(`${folder}/user.pub`, `${folder}/authorized`);
  const settings = {
    Port: port,
    ListenAddress: '127.0.0.1',
    HostKey: `${folder}/host`,
    AuthorizedKeysFile: `${folder}/authorized`,
    PermitRootLogin: 'prohibit-password',
    // Above the folder there are ones that others may write (the temporary one).
    StrictModes: 'no',
    // With PAM an account without a password is refused.
    UsePAM: 'yes',
    PidFile: 'none',
    Subsystem: 'sftp internal-sftp',
  };
  const path = `${folder}/config`;
  writeFileSync(
    path,
    Object.entries(settings)
      .map((setting) => `${setting.join(' ')}\n`)
      .join(''),
  );
  await site.helper('mkdir', ['-p', PRIVILEGE_SEPARATION]);
  return path;
}

export const SSHFS: Peer = {
  name: 'sshfs',
  commands: ['sshfs', 'sshd', 'ssh'],
  packages: ['sshfs', 'openssh-server', 'openssh-client'],
  secondMount: 'client',
  hasClient: true,
  async start(site) {
    const port = await freePort();
    const config = await configure(site, port);
    const key = site.path('ssh/user');
    let folder = '';
    return await startServed(site, 'sshfs', {
      async startServer(served) {
        folder = served;
        const server = site.daemon('server', SSHD, ['-D', '-e', '-f', config]);
        await listens(port, server);
        return [server];
      },
      mountCommand: (mountpoint) => {
        const ssh = [
          `Port=${port}`,
          `IdentityFile=${key}`,
          'StrictHostKeyChecking=no',
          'UserKnownHostsFile=/dev/null',
        ];
        const options = [...ssh, 'allow_other', 'default_permissions'].flatMap((option) => ['-o', option]);
        return ['sshfs', ['-f', '-F', '/dev/null', ...options, `root@127.0.0.1:${folder}`, mountpoint]];
      },
    });
  },
};
