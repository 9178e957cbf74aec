"""Exact split of every logit over every head, in the same forward pass.

Freeze, for one image, the scale of each norm on the residual stream and the pooling weights. The map from any component
added to the stream to the logits is then linear, and factors into a matrix known at export time and one scalar per
token. With A_m = diag(gamma_m)(I - 11'/D) for LN_1 of encoder m and A_f for the final norm, s[t] = 1/sigma of a norm at
token t, p[t] the pooling weights:

    R_L = W_fc A_f                R_l = R_{l+1} A_l           (K x D, known at export)
    q_L[t] = p[t] s_f[t]          q_l[t] = q_{l+1}[t] s_l[t]
    head h of encoder l   (R_l W_O[:,h]) sum_t q_l[t] o[l,h,t,:]
    feed-forward of l     (R_{l+1} W_2) sum_t q_{l+1}[t] gelu[l,t,:]
    embedding             R_0 sum_t q_0[t] x_0[t]
    biases and betas      the same with sum_t q[t] in place of the token sum

Invariant: their sum IS the logit, up to rounding (3e-15 in float64, relative to the logits). No gradients are involved.

Limits: it is the DIRECT effect of a head; what it does through later heads counts there. A split that ignores LN_1 on
the stream is off by as much as the logits themselves.

Beside it, the field of each head on the labels through its SNP probe (`nodes.snp`), which is linear too.

Shape suffixes as in `model.cct`; L encoders, M = L + 1 places on the stream, R all heads, G = 2 ways to pool.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, HEADS, activation_name
from headwise_exporter.model.cct import CCT, InputNormalisation
from headwise_exporter.nodes.snp import Probe


class Classify(nn.Module):
    """uint8 images (B, Y, X, C) to logits (B, K), normalisation included."""

    def __init__(self, normalise: InputNormalisation, model: CCT) -> None:
        super().__init__()
        self.normalise = normalise
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits_BK: Tensor = self.model(self.normalise(images))[0]
        return logits_BK


def _norm_matrix(norm: nn.LayerNorm) -> Tensor:
    """A = diag(gamma)(I - 11'/D), float64 (D, D)."""
    width = norm.normalized_shape[0]
    centring = torch.eye(width, dtype=torch.float64) - 1.0 / width
    return norm.weight.detach().double().unsqueeze(1) * centring


def _stream_matrices(model: CCT) -> list[Tensor]:
    """R_0 ... R_L, float64 (K, D) each: the stream at each place to the logits, apart from the token scalars."""
    matrices = [model.classifier.fc.weight.detach().double() @ _norm_matrix(model.classifier.norm)]
    for encoder in reversed(model.encoders):
        matrices.append(matrices[-1] @ _norm_matrix(encoder.norm1))
    return matrices[::-1]


def _bias_vectors(model: CCT, stream: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What each unit of sum_t q_m[t] adds to the logits (M, K), and what is added whatever the image (K,)."""
    bias_MK = torch.zeros(len(stream), model.config.labels, dtype=torch.float64)
    for index, encoder in enumerate(model.encoders):
        bias_MK[index] += stream[index] @ encoder.self_attn.proj.bias.detach().double()
        bias_MK[index + 1] += stream[index + 1] @ (encoder.linear2.bias + encoder.norm1.bias).detach().double()
    head, norm = model.classifier.fc, model.classifier.norm
    constant_K = head.weight.detach().double() @ norm.bias.detach().double() + head.bias.detach().double()
    return bias_MK, constant_K


class ExactSplit(nn.Module):
    """uint8 images (B, Y, X, C) to the logits, their exact split and the head fields, by the names in `SPLIT`.

    `SPLIT` is that of `headwise.graphs`: logits (B, K); heads (B, R, K), encoder by encoder; feed_forwards (B, L, K);
    embedding (B, K); biases (B, K); head_fields (B, R, K). Float type: that of the model.

    Args:
        model: in evaluation mode; its encoders may differ in shape. One without hidden nodes contributes zero by its
            feed-forward, one without heads has no row.
        probes: the probe of the `heads` tap point of each encoder that has heads.
    """

    def __init__(self, model: CCT, probes: Sequence[Probe], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = InputNormalisation(tuple(mean), tuple(std))
        self.model = model
        self.pools = nn.ModuleList(probe.attention_pool for probe in probes)
        dtype = model.classifier.fc.weight.dtype
        stream = _stream_matrices(model)
        bias_MK, constant_K = _bias_vectors(model, stream)
        self.register_buffer("embedding_DK", stream[0].T.to(dtype).contiguous())
        self.register_buffer("bias_MK", bias_MK.to(dtype))
        self.register_buffer("constant_K", constant_K.to(dtype))
        head_tables, feed_forward_tables = {}, {}
        for index, encoder in enumerate(model.encoders):
            if isinstance(encoder.linear2, nn.Linear):
                feed_forward = stream[index + 1] @ encoder.linear2.weight.detach().double()
                feed_forward_tables[index] = feed_forward.T.unsqueeze(0).to(dtype)
        with_heads = [index for index, shape in enumerate(model.config.encoders) if shape.heads]
        for index, probe in zip(with_heads, probes, strict=True):
            attention = model.encoders[index].self_attn
            split, weight_DV = (
                (attention.shape.heads, -1),
                model.layer(f"classifier.blocks.{index}.self_attn.proj").weight,
            )
            ways = (stream[index] @ weight_DV.detach().double(), probe.fc.weight.detach().double())
            head_tables[index] = torch.stack([way.T.unflatten(0, split) for way in ways]).to(dtype)
        self.probed = {index: number for number, index in enumerate(with_heads)}
        self.head_groups = _register(self, "heads_GEHVK", head_tables)
        self.feed_forward_groups = _register(self, "feed_forward_E1FK", feed_forward_tables)

    def token_weights(self, activations: dict[str, Tensor]) -> list[Tensor]:
        """q_0 ... q_L, (B, T) each."""
        weights = [activations["pooling_weights"] * activations["norm_scale"]]
        for index in reversed(range(len(self.model.config.encoders))):
            weights.append(weights[-1] * activations[activation_name(index, "norm1_scale")])
        return weights[::-1]

    def _pooled_heads(self, index: int, heads_BTV: Tensor, weights_BT: Tensor) -> Tensor:
        """Head outputs of one encoder, summed over tokens with the split's and the probe's weights (B, 2, H, 1, V)."""
        pool = cast(nn.Linear, self.pools[self.probed[index]])
        # Without the bias: the softmax takes away what all tokens share.
        probe_BT = (heads_BTV @ pool.weight.T).squeeze(-1).softmax(-1)
        pooled_BGV = torch.stack((weights_BT, probe_BT), 1) @ heads_BTV
        pooled_BGH1V: Tensor = pooled_BGV.unflatten(-1, (self.model.config.encoders[index].heads, 1, -1))
        return pooled_BGH1V

    def _feed_forwards(self, pooled_hidden: Mapping[int, Tensor], logits_BK: Tensor) -> Tensor:
        """Contributions of all feed-forwards (B, L, K), zero of those without hidden nodes."""
        encoders = len(self.model.config.encoders)
        if len(pooled_hidden) == encoders:
            return _times_tables(self, self.feed_forward_groups, pooled_hidden)
        contributions = iter(range(len(pooled_hidden)))
        rows = [next(contributions) if index in pooled_hidden else len(pooled_hidden) for index in range(encoders)]
        parts = [torch.zeros_like(logits_BK).unsqueeze(1)]
        if pooled_hidden:
            parts.insert(0, _times_tables(self, self.feed_forward_groups, pooled_hidden))
        return torch.cat(parts, 1)[:, rows]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The tensors by name, in the order of `SPLIT`."""
        logits_BK, activations = self.model(self.normalise(images))
        return self.parts(logits_BK, activations, self.token_weights(activations))

    def parts(
        self, logits_BK: Tensor, activations: Mapping[str, Tensor], weights: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The same of a forward pass.

        Args:
            weights: as `token_weights` gives them.
        """
        pooled_heads = {
            index: self._pooled_heads(index, heads_BTV, weights[index])
            for index, heads_BTV in self.of_encoders(activations, HEADS).items()
        }
        pooled_hidden = {
            index: (weights[index + 1].unsqueeze(1) @ hidden_BTF).unsqueeze(1)
            for index, hidden_BTF in self.of_encoders(activations, FEED_FORWARD_HIDDEN).items()
        }
        heads_BGRK = _times_tables(self, self.head_groups, pooled_heads)
        embedded_BD = (weights[0].unsqueeze(1) @ activations["embedding"]).squeeze(1)
        sums_BM = torch.stack(list(weights), 1).sum(-1)
        return {
            "logits": logits_BK,
            "heads": heads_BGRK[:, 0],
            "feed_forwards": self._feed_forwards(pooled_hidden, logits_BK),
            "embedding": embedded_BD @ self.get_buffer("embedding_DK"),
            "biases": sums_BM @ self.get_buffer("bias_MK") + self.get_buffer("constant_K"),
            "head_fields": heads_BGRK[:, 1],
        }

    def of_encoders(self, activations: Mapping[str, Tensor], kind: str) -> dict[int, Tensor]:
        """The activations of a kind by encoder, of those that have it."""
        names = {index: activation_name(index, kind) for index in range(len(self.model.config.encoders))}
        return {index: activations[name] for index, name in names.items() if name in activations}

    def head_columns(self, targets_BJ: Tensor) -> dict[int, Tensor]:
        """Columns of the table R_l W_O of each encoder with heads for the targets of each image (B, H, V, J)."""
        return {index: columns[:, 0] for index, columns in _columns(self, self.head_groups, targets_BJ).items()}

    def feed_forward_columns(self, targets_BJ: Tensor) -> dict[int, Tensor]:
        """The same of R_{l+1} W_2 of each encoder with hidden nodes (B, F, J)."""
        return {index: columns[:, 0] for index, columns in _columns(self, self.feed_forward_groups, targets_BJ).items()}

    def embedding_columns(self, targets_BJ: Tensor) -> Tensor:
        """The same of R_0 (B, D, J)."""
        return _table_columns(self.get_buffer("embedding_DK"), targets_BJ)


Groups = dict[str, list[int]]


def _register(module: nn.Module, name: str, tables: Mapping[int, Tensor]) -> Groups:
    """Stack the encoders' tables of equal shape into one buffer each; which encoders each buffer holds.

    One product for all encoders of a shape costs a fraction of one for each: these products are tiny, and a runtime's
    overhead is by the operation.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for index, table in tables.items():
        by_shape.setdefault(table.shape, []).append(index)
    groups = {f"{name}_{number}": indices for number, indices in enumerate(by_shape.values())}
    for buffer, indices in groups.items():
        module.register_buffer(buffer, torch.stack([tables[index] for index in indices], -4))
    return groups


def _times_tables(module: nn.Module, groups: Groups, values: Mapping[int, Tensor]) -> Tensor:
    """Each encoder's values (B, ..., H, 1, n) times its table, in the order of the encoders: (B, ..., R, K)."""
    products = []
    for buffer, indices in groups.items():
        stacked = torch.stack([values[index] for index in indices], -4) @ module.get_buffer(buffer)
        products.append(stacked.squeeze(-2).flatten(-3, -2))
    joined = torch.cat(products, -2)
    grouped = [
        (index, row) for indices in groups.values() for index in indices for row in range(values[index].shape[-3])
    ]
    order = sorted(range(len(grouped)), key=grouped.__getitem__)
    return joined if order == list(range(len(order))) else joined[..., order, :]


def _table_columns(table: Tensor, targets_BJ: Tensor) -> Tensor:
    """The columns of a table (..., n, K) for the targets of each image (B, ..., n, J)."""
    columns_nBJ: Tensor = table.index_select(-1, targets_BJ.flatten()).unflatten(-1, targets_BJ.shape)
    return columns_nBJ.movedim(-2, 0)


def _columns(module: nn.Module, groups: Groups, targets_BJ: Tensor) -> dict[int, Tensor]:
    """Columns of each encoder's table (..., H, n, K) for the targets of each image (B, ..., H, n, J)."""
    return {
        index: columns
        for buffer, indices in groups.items()
        for index, columns in zip(
            indices, _table_columns(module.get_buffer(buffer), targets_BJ).unbind(-4), strict=True
        )
    }
