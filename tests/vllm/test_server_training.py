"""GRPO with a vLLM server trains as without one, by gloo in the place of NCCL; see its module."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from peft import LoraConfig
from trl.generation import vllm_client
from trl.generation.vllm_client import VLLMClient

from trl_deepseek.cli.main import main
from trl_deepseek.engines import client, server
from trl_deepseek.errors import RunError
from trl_deepseek.sources import import_file

Build = Callable[..., Any]
runs: Any = import_file(Path(__file__).parent / "runs.py")
gloo_transport: Any = import_file(Path(__file__).parent / "gloo_transport.py")
serving: Any = import_file(Path(__file__).parent / "serving.py")
NAME = "tiny-deepseek-llm"


def prompts_of(trainer: Any) -> list[list[int]]:
    tokenizer = trainer.processing_class
    asked = {str(row["prompt"]): row["prompt"] for row in trainer.train_dataset}.values()
    return [
        tokenizer.apply_chat_template(each, add_generation_prompt=True, return_dict=False)
        for each in asked
    ]


def answers_of(trainer: Any, tokens: int) -> list[list[int]]:
    """What transformers says greedily to each prompt, with the policy as it is."""
    model, found = trainer.model.eval(), []
    for prompt in prompts_of(trainer):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            full = model.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False)
        found.append(full[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "LoRA"])
def test_three_greedy_steps_and_their_weights_are_those_of_transformers(
    build_on_server: Build, served: Any, tmp_path: Path, adapted: bool
) -> None:
    options = runs.greedy(tmp_path)
    if adapted:
        options["peft_config"] = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear")
    theirs = build_on_server("without", use_vllm=False, **options)
    theirs.train()
    ours = build_on_server("with", **options)
    first = answers_of(ours, 24)
    ours.train()
    assert runs.saved(tmp_path / "with") == runs.saved(tmp_path / "without")
    found = runs.gaps(ours)
    assert len(found) == 3
    assert max(found) < 1e-4
    expected = runs.weights_of(theirs)
    for name, tensor in runs.weights_of(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
    ours.vllm_generation.sync_weights()  # of the last step
    trained = answers_of(theirs, 24)
    assert trained != first
    assert served.answer(prompts_of(ours), 24) == trained


def test_a_base_in_4_bits_reaches_the_server_as_the_numbers_that_it_stands_for(
    build_on_server: Build,
) -> None:
    config = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear")
    trainer = build_on_server(quantization="qlora", peft_config=config, reward=runs.by_length)
    trainer.train()
    found = runs.gaps(trainer)
    assert len(found) == 3
    assert max(found) < 2e-2


def test_two_processes_with_a_server_are_one_without(
    build: Build, served: Any, tmp_path: Path
) -> None:
    theirs = build("without", use_vllm=False, **runs.greedy(tmp_path))
    theirs.train()
    folder = tmp_path / "two"
    for rank in ("0", "1"):
        (folder / rank).mkdir(parents=True)
    script = Path(__file__).parent / "two_on_a_server.py"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = subprocess.run(
        [sys.executable, *launcher, script, folder, served.url, str(serving.free_port())],
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert runs.saved(folder / "run") == runs.saved(tmp_path / "without")
    expected = runs.weights_of(theirs)
    for rank in ("0", "1"):
        weights, gaps = torch.load(folder / rank / "end.pt")
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)
        if rank == "0":
            assert len(gaps) == 3
            assert max(gaps) < 1e-4


def test_a_server_that_computes_in_another_precision_is_said(
    build_on_server: Build, caplog: pytest.LogCaptureFixture
) -> None:
    build_on_server(use_cpu=True, bf16=True)
    assert (
        "the vLLM server computes in float32, and the trainer in bfloat16, so that their "
        "log-probs differ: start it with --dtype bfloat16"
    ) in caplog.messages


def test_a_transport_that_brings_old_weights_ends_the_run(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_on_server(reward=runs.by_length, learning_rate=3e-2)
    sent: list[torch.Tensor] = []
    group = trainer.vllm_generation.vllm_client.communicator
    broadcast = group.broadcast

    def first(tensor: torch.Tensor, src: int) -> None:
        sent.append(tensor.clone())
        broadcast(sent[0], src)

    monkeypatch.setattr(group, "broadcast", first)
    with pytest.raises(RunError, match=r"^step 1: the engine does not have the weights of the pol"):
        trainer.train()
    assert len(sent) == 2


def test_the_server_is_asked_as_the_template_says_and_stops_where_it_says(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_on_server(
        chat_template="deepseek-r1",
        noise="neftune",
        noise_alpha=5.0,
        max_steps=1,
        max_completion_length=4,
        temperature=0.7,
        reward=runs.by_length,
    )
    tokenizer, engine = trainer.processing_class, trainer.vllm_generation
    asked: list[Any] = []
    send = engine.vllm_client.session.post

    def heard(url: str, **request: Any) -> Any:
        if url.endswith("/v1/completions"):
            asked.append(request["json"])
        return send(url, **request)

    monkeypatch.setattr(engine.vllm_client.session, "post", heard)
    trainer.train()
    (request,) = asked
    assert all(
        tokenizer.decode(ids).endswith("<｜Assistant｜><think>\n") for ids in request["prompt"]
    )
    assert (request["n"], request["temperature"]) == (4, 0.7)
    assert max(runs.gaps(trainer)) < 1e-4  # noise would be of the order of 0.1
    stops = request["stop_token_ids"]
    assert tokenizer.convert_tokens_to_ids("<｜end▁of▁sentence｜>") in stops
    for stop in stops:
        sampled = {**engine.generation_kwargs, "logit_bias": {stop: 100.0}}
        monkeypatch.setattr(engine, "generation_kwargs", sampled)
        assert engine.generate([request["prompt"][0]], None, 1)[1] == [[stop]]


def test_a_prompt_that_does_not_fit_is_told_and_one_that_goes_on_is_cut(
    build_on_server: Build,
) -> None:
    trainer = build_on_server(max_steps=1, max_completion_length=100)
    with pytest.raises(
        RunError,
        match=r"^a prompt of 40 tokens and a completion of 100 do not fit into the 128 of the "
        r"engine\n  the server's --max_model_len 140, or more$",
    ):
        trainer.train()
    engine = trainer.vllm_generation
    engine.goes_on = True
    engine.generation_kwargs = {"ignore_eos": True}
    prompts = [[5] * 20, [5] * 120, [5] * 128]
    _, found, logps, _ = engine.generate(prompts, None, 1)
    assert [len(ids) for ids in found] == [100, 8, 0]
    assert [len(each) for each in logps] == [100, 8, 0]


def test_the_proof_asks_for_no_more_than_there_is_room_for(build_on_server: Build) -> None:
    options = {"top_k": 5, "max_completion_length": 128 - 40, "max_steps": 1}
    trainer = build_on_server(**options, reward=runs.by_length)
    trainer.train()
    assert len(runs.gaps(trainer)) == 1


@pytest.mark.parametrize("where", ["names", "packing"])
def test_a_fault_while_weights_are_sent_ends_the_wait_for_the_server(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    trainer = build_on_server()
    engine = trainer.vllm_generation
    engine.sync_weights()
    names = engine._iter_named_params

    def breaks_off(*_: Any, **__: Any) -> Any:
        yield next(names())
        raise MemoryError("no room for the second")

    if where == "names":
        monkeypatch.setattr(engine, "_iter_named_params", breaks_off)
    else:
        packs: Any = lambda **_: list(breaks_off())  # noqa: E731
        monkeypatch.setattr(vllm_client, "packed_nccl_broadcast_producer", packs)
    with pytest.raises(RunError, match=r"take the policy's weights: MemoryError: no room for the"):
        trainer.train()
    monkeypatch.undo()
    gloo_transport.replace_in_trainer(monkeypatch)
    trainer.train()  # meets the server anew, in the middle of whose update it was
    assert max(runs.gaps(trainer)) < 1e-4


def test_two_trainers_that_take_turns_each_have_their_own_weights_on_the_server(
    build_on_server: Build, served: Any
) -> None:
    options = {"reward": runs.by_length, "learning_rate": 3e-2, "max_steps": 1}
    options["vllm_server_base_url"] = served.url + "/"
    first, second = (build_on_server(folder, **options) for folder in ("first", "second"))
    for trainer in (first, second, first):
        trainer.train()  # of one step, so that TRL takes the step for the one that it has sent
        assert max(runs.gaps(trainer)) < 1e-4
        (gap,) = (r["sampling/sampling_logp_difference/mean"] for r in logged(trainer)[-1:])
        assert gap < 1e-4
    assert first.vllm_generation.synced == 2


def test_a_run_whose_server_another_has_met_since_ends_and_says_so(
    build_on_server: Build,
) -> None:
    first = build_on_server("first", reward=runs.by_length)
    other = build_on_server("other", vllm_group_port=serving.free_port(), reward=runs.by_length)
    with pytest.raises(RunError, match=r"takes the weights of another run, which has met it since"):
        first.train()
    other.train()  # undisturbed by the first
    assert len(runs.gaps(other)) == 3


def test_a_server_that_keeps_no_mark_is_said_and_trained_with(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    post = requests.Session.post

    def older(session: Any, url: str, **given: Any) -> Any:
        """As to a server that does not know of versions."""
        return post(session, url.replace("/update_weight_version", "/not_here"), **given)

    monkeypatch.setattr(requests.Session, "post", older)
    trainer = build_on_server(reward=runs.by_length)
    (said,) = (each for each in caplog.messages if "whose weights it has" in each)
    assert said.endswith("as 0.31 does (status 404): see that no other run meets it")
    trainer.train()
    assert len(runs.gaps(trainer)) == 3


def logged(trainer: Any) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "loss" in row]


def test_a_trainer_that_cannot_open_its_end_does_not_wait_for_the_server(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    post = VLLMClient._post

    def waits(client: Any, url: str, **given: Any) -> Any:
        """As the server's answer does; nothing is sent, or it would meet the next trainer."""
        if url.endswith("/init_weight_transfer_engine"):
            over.wait()
            raise ConnectionError("nobody has come to the meeting")
        return post(client, url, **given)

    def taken(*_: Any) -> Any:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(VLLMClient, "_post", waits)
    monkeypatch.setattr(vllm_client, "open_trainer_endpoint", taken)
    monkeypatch.setattr(client, "MET_IN", 1e5)
    with pytest.raises(RunError, match=r"have not met for the transfer .*: OSError: .*already in"):
        build_on_server()
    over.set()


def test_weights_that_the_server_does_not_take_end_the_run(
    build_on_server: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_on_server()
    names = trainer.vllm_generation._iter_named_params

    def unknown() -> Any:
        yield from names()
        yield "model.layers.0.unknown.weight", torch.zeros(2)

    monkeypatch.setattr(trainer.vllm_generation, "_iter_named_params", unknown)
    with pytest.raises(
        RunError, match=r"take the policy's weights: the vLLM server at .* failed: "
    ):
        trainer.train()


def test_a_server_that_hangs_while_weights_are_sent_ends_the_run(
    build_on_server: Build, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_on_server()
    group = trainer.vllm_generation.vllm_client.communicator
    over = threading.Event()

    def waits(tensor: torch.Tensor, src: int) -> None:
        """As NCCL does, whatever becomes of the other side."""
        served.each(signal.SIGSTOP)
        assert over.wait(300)

    monkeypatch.setattr(group, "broadcast", waits)
    destroy = group.destroy

    def ends() -> None:
        destroy()
        over.set()

    monkeypatch.setattr(group, "destroy", ends)
    monkeypatch.setattr(server, "SILENT_FOR", 5.0)
    with pytest.raises(RunError, match=r"the policy's weights: the vLLM server at .* has not answ"):
        trainer.train()
    served.each(signal.SIGCONT)


KILLS = """
import os, signal
from pathlib import Path
from trl_deepseek import hookimpl

@hookimpl
def register_rewards(register):
    register("by_length", by_length)

def by_length(completions, **_):
    doomed, calls = Path(DOOMED), Path(CALLS)
    calls.write_text(calls.read_text() + "." if calls.exists() else ".")
    if len(calls.read_text()) == 3 and doomed.exists():
        for number in doomed.read_text().split():
            os.kill(int(number), signal.SIGKILL)
        doomed.unlink()
    return [float(len(completion) % 5) for completion in completions]
"""


def test_a_server_that_is_killed_ends_the_command_and_with_another_it_goes_on(
    build_on_server: Build,
    serve: Callable[[], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    doomed, plugin, served = tmp_path / "doomed", tmp_path / "kills.py", serve()
    said = {"DOOMED": str(doomed), "CALLS": str(tmp_path / "calls")}
    plugin.write_text("".join(f"{key} = {value!r}\n" for key, value in said.items()) + KILLS)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{number} a12 b45"}) + "\n" for number in range(16))
    )
    words = [
        *("grpo", "--model_name_or_path", NAME, "--dataset_name", str(tmp_path / "rows.jsonl")),
        *("--reward_funcs", "by_length", "--learning_rate", "3e-3", "--max_steps", "4"),
        *("--per_device_train_batch_size", "8", "--num_generations", "4", "--beta", "0"),
        *("--max_completion_length", "8", "--save_steps", "1", "--report_to", "none"),
    ]
    options = runs.greedy(tmp_path)
    options["plugins"].append(str(plugin))
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    assert main([*words, "--output_dir", str(tmp_path / "without")]) == 0

    words += ["--output_dir", str(tmp_path / "with"), "--engine", "vllm", "--vllm_mode", "server"]
    (tmp_path / "calls").unlink()
    doomed.write_text(" ".join(str(process.pid) for process in served.all))
    capsys.readouterr()
    assert main([*words, "--vllm_server_port", str(served.port)]) == 1
    error = capsys.readouterr().err
    message = error.rpartition("trl-deepseek grpo: ")[2]
    assert message == (
        "the engine did not take the policy's weights: the vLLM server at "
        f"http://0.0.0.0:{served.port} has not answered for 20 seconds\n"
        "  start it again, and go on with --resume_from_checkpoint\n"
    )
    assert "Traceback" not in error

    words += ["--vllm_server_port", str(serve().port), "--resume_from_checkpoint", "true"]
    assert main(words) == 0
    assert runs.saved(tmp_path / "with") == runs.saved(tmp_path / "without")
