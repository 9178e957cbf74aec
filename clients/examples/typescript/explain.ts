// Labels of a picture, and which heads spoke for the first: node build/explain.js digit.png [localhost:50051]
import { readFile } from "node:fs/promises";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { HeadwiseService } from "./generated/headwise/v1/service_pb.js";

const [picture, server = "localhost:50051"] = process.argv.slice(2);
if (picture === undefined) throw new Error("expected the file of a picture: node build/explain.js digit.png");
const images = [{ content: { case: "encoded", value: await readFile(picture) } as const }];
const transport = createGrpcTransport({ baseUrl: `http://${server}`, defaultTimeoutMs: 30_000 });
const client = createClient(HeadwiseService, transport);

// The manifest has the names of labels and heads. All calls ask for the version that it is of.
const { manifest } = await client.getModel({});
if (manifest === undefined) throw new Error("expected a manifest in the server's reply, found none");
const model = { model: manifest.name, version: manifest.version };

const { classifications } = await client.classify({ ...model, images, topK: 3 });
for (const { label, probability } of classifications[0]?.top ?? []) {
  console.log(`${label}: ${(100 * probability).toFixed(2)} %`);
}

const { explanations } = await client.explain({ ...model, images, topK: 1 });
for (const { targetIndices, headContributions } of explanations) {
  const contributions = new Float32Array(new Uint8Array(headContributions).buffer); // one row a head, one column
  const rows = [...contributions.entries()].sort(([, one], [, other]) => Math.abs(other) - Math.abs(one));
  console.log(`why ${targetIndices.map((index) => manifest.labels[index]).join()}, in logits:`);
  for (const [row, logit] of rows.slice(0, 5)) {
    const card = manifest.headCards.find((card) => card.row === row);
    console.log(`encoder ${card?.encoder} head ${card?.head}: ${logit.toFixed(4)}`);
  }
}
