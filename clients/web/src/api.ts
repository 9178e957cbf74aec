/** What the server answers, and its errors, as this page uses them. Paths are relative to the page's own address. */

export interface TokenGrid {
  rows: number;
  columns: number;
  stride_pixels: number;
  receptive_field_pixels: number;
  first_center_pixels: number;
}

export interface HeadCard {
  encoder: number;
  head: number;
  /** Position of the head in replies; null where it was pruned away. */
  row: number | null;
  expertLabels: string[];
  images: number;
  pValue: number | null;
}

export interface ServedModel {
  name: string;
  version: string;
  sha256: string;
  engine: string;
  precision: string;
}

/** Images of the data set to which each head contributed most, as tiles of one picture. */
export interface HeadSamples {
  tileWidth: number;
  tileHeight: number;
  columns: number;
  /** That they were chosen from. */
  images: number;
  samples: { row: number; column: number; label: string; contribution: number }[];
}

export interface Model {
  name: string;
  version: string;
  labels: string[];
  input: { height: number; width: number; isGrey: boolean; isCropped: boolean };
  cards: HeadCard[];
  /** Null in bundles without maps, which cannot silence heads either. */
  tokenGrid: TokenGrid | null;
  /** Null where the bundle was to hold no pictures. */
  samples: HeadSamples | null;
  accuracy: { value: number; low: number; high: number; images: number } | null;
}

export interface HeadPart {
  encoder: number;
  head: number;
  contribution: number;
  above_mean: number;
  map?: number[][];
  effect?: number;
}

export interface OtherPart {
  name: string;
  contribution: number;
  above_mean: number;
  map?: number[][];
}

export interface Target {
  index: number;
  label: string;
  logit: number;
  probability: number;
  heads: HeadPart[];
  other_parts: OtherPart[];
  effect_correlation?: number | null;
  silenced_logit?: number;
  silenced_probability?: number;
}

export interface LabelScore {
  index: number;
  label: string;
  logit: number;
  probability: number;
}

export interface Explanation {
  completeness_residual: number;
  mean_logit: number;
  targets: Target[];
  silenced_top?: LabelScore[];
}

export interface ExplainReply {
  model: ServedModel;
  explanations: Explanation[];
  completeness_tolerance: number;
  token_grid?: TokenGrid;
  timings: { queue_seconds: number; inference_seconds: number; total_seconds: number };
}

/** What is asked of a picture, as parameters of the query. */
export interface Question {
  labels?: string[];
  top_k?: number;
  maps?: boolean;
  causal?: boolean;
  silenced_heads?: number[];
}

export type Trouble = "unreachable" | "token" | "forbidden" | "missing" | "refused" | "busy" | "failed";

const TROUBLES: Record<number, Trouble> = {
  401: "token",
  403: "forbidden",
  404: "missing",
  429: "busy",
  503: "busy",
  504: "busy",
};

/** A request that was not answered, with what kind of trouble it is and what the server said. */
export class ServerError extends Error {
  constructor(
    readonly trouble: Trouble,
    message: string,
  ) {
    super(message);
  }
}

function trouble(status: number): Trouble {
  return TROUBLES[status] ?? (status < 500 ? "refused" : "failed");
}

async function refusal(response: Response): Promise<ServerError> {
  let message = `The server answered with ${response.status}.`;
  try {
    const status = (await response.json()) as { message?: string };
    message = status.message ?? message;
  } catch {
    // Something between this page and the server answered; it says no more than its status.
  }
  return new ServerError(trouble(response.status), message);
}

interface Manifest {
  labels: string[];
  input: { height: number; width: number; color_mode?: string; framing?: string };
  head_cards?: {
    encoder?: number;
    head?: number;
    row?: number;
    expert_labels?: string[];
    images?: number;
    p_value?: number;
  }[];
  architecture?: { token_grid?: TokenGrid };
  head_samples?: {
    tile_width?: number;
    tile_height?: number;
    columns?: number;
    images?: number;
    samples?: { row?: number; column?: number; label?: string; contribution?: number }[];
  };
  metrics?: {
    test_images?: number;
    pruned_accuracy?: number;
    pruned_accuracy_interval?: { low?: number; high?: number };
  };
}

function samplesOf(given: NonNullable<Manifest["head_samples"]>): HeadSamples {
  return {
    tileWidth: given.tile_width ?? 1,
    tileHeight: given.tile_height ?? 1,
    columns: given.columns ?? 1,
    images: given.images ?? 0,
    samples: (given.samples ?? []).map((sample) => ({
      row: sample.row ?? 0,
      column: sample.column ?? 0,
      label: sample.label ?? "",
      contribution: sample.contribution ?? 0,
    })),
  };
}

/** A manifest in proto3 JSON, which leaves out what is zero or empty. */
export function modelOf(served: ServedModel, manifest: Manifest): Model {
  const metrics = manifest.metrics;
  return {
    name: served.name,
    version: served.version,
    labels: manifest.labels,
    input: {
      height: manifest.input.height,
      width: manifest.input.width,
      isGrey: manifest.input.color_mode === "COLOR_MODE_GRAYSCALE",
      isCropped: manifest.input.framing === "FRAMING_CENTER",
    },
    cards: (manifest.head_cards ?? []).map((card) => ({
      encoder: card.encoder ?? 0,
      head: card.head ?? 0,
      row: card.row ?? null,
      expertLabels: card.expert_labels ?? [],
      images: card.images ?? 0,
      pValue: card.p_value ?? null,
    })),
    tokenGrid: manifest.architecture?.token_grid ?? null,
    samples: manifest.head_samples ? samplesOf(manifest.head_samples) : null,
    accuracy: metrics?.test_images
      ? {
          value: metrics.pruned_accuracy ?? 0,
          low: metrics.pruned_accuracy_interval?.low ?? 0,
          high: metrics.pruned_accuracy_interval?.high ?? 0,
          images: metrics.test_images,
        }
      : null,
  };
}

/** The server that this page came from. A token is kept here, in memory, and nowhere else. */
export class Server {
  token = "";

  constructor(private readonly base: URL) {}

  async models(): Promise<string[]> {
    const reply = await this.ask<{ models?: ServedModel[] }>("models");
    return [...new Set((reply.models ?? []).map((model) => model.name))].sort();
  }

  async model(name: string): Promise<Model> {
    const reply = await this.ask<{ model: ServedModel; manifest: Manifest }>(`models/${encodeURIComponent(name)}`);
    return modelOf(reply.model, reply.manifest);
  }

  /** The picture that `model.samples` are tiles of. */
  async headSamples(model: Model): Promise<Blob> {
    const version = encodeURIComponent(model.version);
    const response = await this.send(`models/${encodeURIComponent(model.name)}/versions/${version}/head-samples`, {});
    return response.blob();
  }

  async explain(name: string, picture: Blob, question: Question, signal: AbortSignal): Promise<ExplainReply> {
    const query = new URLSearchParams();
    for (const [parameter, value] of Object.entries(question)) {
      for (const each of Array.isArray(value) ? value : [value]) query.append(parameter, String(each));
    }
    const headers = { "content-type": "application/octet-stream" };
    const path = `models/${encodeURIComponent(name)}:explain?${query}`;
    return this.ask<ExplainReply>(path, { method: "POST", body: picture, headers, signal });
  }

  private async ask<Reply>(path: string, options: RequestInit = {}): Promise<Reply> {
    return (await (await this.send(path, options)).json()) as Reply;
  }

  private async send(path: string, options: RequestInit): Promise<Response> {
    const headers = new Headers(options.headers);
    if (this.token) headers.set("authorization", `Bearer ${this.token}`);
    let response: Response;
    try {
      response = await fetch(new URL(path, this.base), { ...options, headers, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ServerError("unreachable", `No answer from ${this.base.host}. Is the server still running?`);
    }
    performance.mark("headwise:reply");
    if (!response.ok) throw await refusal(response);
    return response;
  }
}
