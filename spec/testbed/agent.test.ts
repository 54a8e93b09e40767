import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Dom0Agent, parseAnswer } from '../../src/testbed/agent.js';

describe('an answer', () => {
  it('is the text between the marks of its own request', () => {
    const received = '\r\n+4 end 0\r\n+5 begin\r\na\r\nb\r\n\r\n+5 end 3\r\n';
    expect(parseAnswer(received, '5')).toEqual({ status: 3, output: 'a\nb\n' });
  });

  it('is not there before its end', () => {
    expect(parseAnswer('+5 begin\nab', '5')).toBeUndefined();
    expect(parseAnswer('+5 begin\nab\n+5 end 1', '5')).toBeUndefined();
  });

  it('may be empty', () => {
    expect(parseAnswer('+5 begin\n\n+5 end 0\n', '5')).toEqual({ status: 0, output: '' });
  });
});

describe('the agent', () => {
  it('asks for one command after the other, and tells when dom0 is silent', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nl-agent-'));
    const path = join(folder, 'a.sock');
    const requests: string[] = [];
    const server = createServer((socket) => {
      socket.on('data', (data) => {
        const [id, ...words] = data.toString().trim().split(' ');
        requests.push(words.join(' '));
        if (words[0] !== 'hang') socket.write(`+${id} begin\r\n${words.join(' ')}\r\n+${id} end 0\r\n`);
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      const agent = new Dom0Agent(path);
      const answers = await Promise.all([agent.run('xl list'), agent.run('true')]);
      expect(answers.map((answer) => answer.output.trim())).toEqual(['xl list', 'true']);
      await expect(agent.run('hang', 50)).rejects.toMatchObject({ code: 'NL_TIMEOUT' });
      expect((await agent.run('again')).status).toBe(0);
      expect(requests).toEqual(['xl list', 'true', 'hang', 'again']);
    } finally {
      await new Promise((resolve) => server.close(resolve));
      rmSync(folder, { recursive: true, force: true });
    }
    await expect(new Dom0Agent(path).run('true')).rejects.toMatchObject({ code: 'NL_QEMU_EXITED' });
  });
});
