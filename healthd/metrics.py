"""Every metric of the daemon, in one table, and the registry that renders them as Prometheus text.

Values that somebody already keeps (frames, states, ages) are read when somebody scrapes; only events that nobody else
remembers are counted here. Labels come from the configuration, never from a path, a frame or an error text.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from healthd import __version__

CONTENT_TYPE = "text/plain; version=0.0.4"
"""The server adds the charset."""


@dataclass(frozen=True, slots=True)
class Read:
    """A metric whose value is read at the moment of the scrape."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


READ_METRICS = (
    Read("healthd_build_info", "gauge", ("version",), "Always 1; the version is the label, empty for strangers."),
    Read("healthd_config_reloads_total", "counter", ("outcome",), "Reloads of the configuration: ok or failed."),
    Read("healthd_config_restart_needed", "gauge", (), "Settings of the file that wait for a restart of healthd."),
    Read("healthd_ready", "gauge", (), "1 when /readyz answers 200."),
    Read("healthd_loop_late_total", "counter", (), "Times that the event loop got its turn more than a second late."),
    Read("healthd_clock_jumps_total", "counter", (), "Times that the wall clock jumped by more than two seconds."),
    Read("healthd_native_output_lines_total", "counter", (), "Lines that C libraries wrote to standard error."),
    Read("healthd_camera_state", "gauge", ("camera", "state"), "1 for the state the camera is in, 0 for the others."),
    Read("healthd_camera_model_state", "gauge", ("camera", "state"), "1 for the state its model is in, else 0."),
    Read("healthd_camera_frames_read_total", "counter", ("camera",), "Images that the camera delivered."),
    Read("healthd_camera_frames_predicted_total", "counter", ("camera",), "Frames with a prediction."),
    Read("healthd_camera_frames_dropped_total", "counter", ("camera", "reason"), "Frames that no predictor saw."),
    Read("healthd_camera_frames_in_hand", "gauge", ("camera",), "Frames read, neither predicted nor dropped yet."),
    Read("healthd_camera_fps", "gauge", ("camera",), "Frames published per second, over a window that ends now."),
    Read("healthd_camera_predicted_fps", "gauge", ("camera",), "Predictions per second, over a window that ends now."),
    Read("healthd_camera_idle", "gauge", ("camera",), "1 while nothing moves and the model rests."),
    Read("healthd_camera_frame_age_seconds", "gauge", ("camera",), "Age of the newest frame; absent without one."),
    Read("healthd_camera_reconnects_total", "counter", ("camera",), "Sessions after the first one."),
    Read("healthd_camera_failures_total", "counter", ("camera", "task"), "Failed sessions of the reader or predictor."),
    Read("healthd_camera_bugs_total", "counter", ("camera", "task"), "Failures that a plugin did not sort: its bugs."),
    Read("healthd_camera_crash_loops_total", "counter", ("camera", "task"), "Times that it was given up: it crashed."),
    Read("healthd_camera_workers_abandoned_total", "counter", ("camera",), "Threads given up in a stuck call."),
    Read("healthd_camera_workers_stuck", "gauge", ("camera",), "Threads given up that have not come back."),
    Read(
        "healthd_camera_process_ends_total", "counter", ("camera", "reason"), "Processes that were killed or crashed."
    ),
    Read("healthd_camera_process_memory_bytes", "gauge", ("camera",), "Memory of the camera's process alone."),
    Read("healthd_camera_images_copied_total", "counter", ("camera",), "Images copied twice: too many were held."),
    Read("healthd_jpeg_encodes_total", "counter", ("camera", "variant"), "JPEGs encoded, by kind of variant."),
    Read("healthd_jpeg_hits_total", "counter", ("camera",), "JPEGs served from the cache."),
    Read("healthd_jpeg_passed_total", "counter", ("camera",), "JPEGs of the camera itself, served as they came."),
    Read("healthd_viewers_open", "gauge", ("camera", "kind"), "Open streams; no camera: events of all."),
    Read("healthd_viewers_admitted_total", "counter", (), "Streams that were opened."),
    Read("healthd_viewers_refused_total", "counter", (), "Streams that were refused: too many viewers."),
    Read("healthd_viewers_ended_total", "counter", ("reason",), "Streams that ended, by reason."),
    Read("healthd_stream_sent_total", "counter", ("camera", "kind"), "Frames or events sent."),
    Read("healthd_stream_skipped_total", "counter", ("camera", "kind"), "Frames or events that newer ones replaced."),
    Read("healthd_stream_sent_bytes_total", "counter", ("camera", "kind"), "Bytes of pictures or events sent."),
    Read("healthd_socket_frames_received_total", "counter", (), "Pictures that came over WebSockets."),
    Read("healthd_socket_frames_answered_total", "counter", ("status",), "Pictures answered, by status."),
    Read("healthd_socket_frames_dropped_total", "counter", (), "Pictures that a newer one replaced, or left behind."),
    Read("healthd_socket_frames_in_hand", "gauge", (), "Pictures received, neither answered nor dropped yet."),
    Read("healthd_sessions_open", "gauge", (), "Log-ins of pages that have not ended."),
    Read("healthd_key_refusals_total", "counter", ("reason",), "Keys refused: wrong, or not looked at (limited)."),
    Read("healthd_connections_open", "gauge", (), "Open connections, WebSockets included."),
    Read("healthd_connections_cut_total", "counter", ("reason",), "Connections that healthd ended, by reason."),
    Read("healthd_tls_certificate_expires_seconds", "gauge", (), "Until the certificate expires; negative after it."),
    Read("healthd_infer_uploads_open", "gauge", (), "Requests with a picture that are not answered yet."),
    Read("healthd_jobs", "gauge", ("state",), "Jobs that are kept, by state."),
    Read("healthd_jobs_queue_depth", "gauge", (), "Jobs that wait in the queue for a worker."),
    Read("healthd_jobs_unavailable_total", "counter", (), "How often the storage of the jobs could be used no more."),
    Read("healthd_jobs_workers_stuck", "gauge", (), "Threads given up in a storage of jobs that does not answer."),
    Read("healthd_job_pictures_total", "counter", ("result",), "Pictures of jobs that this daemon worked on."),
    Read("healthd_models_loaded", "gauge", (), "Models in memory."),
    Read("healthd_model_users", "gauge", ("model",), "Cameras and requests that hold the model now."),
    Read("healthd_model_waiting", "gauge", ("model",), "Requests in the model's queue."),
    Read("healthd_model_memory_bytes", "gauge", ("model",), "Memory of the model, by its own account."),
    Read("healthd_model_loads_total", "counter", ("outcome",), "Loads: ok or failed."),
    Read("healthd_model_unloads_total", "counter", ("reason",), "Unloads: room, idle, asked, stalled, crashed."),
    Read("healthd_model_detections_total", "counter", ("model", "class"), "Detections by class, from all callers."),
    Read("healthd_model_workers_stuck", "gauge", (), "Threads of requests given up that have not come back."),
    Read("healthd_model_predictions_total", "counter", ("model",), "Predictions since the model was loaded."),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric of `READ_METRICS`."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class _Reader:
    """Prometheus collector over functions that give samples."""

    def __init__(self) -> None:
        self.sources: list[Callable[[], Iterable[Sample]]] = []

    def describe(self) -> Iterable[Metric]:
        return [_family(read) for read in READ_METRICS]

    def collect(self) -> Iterable[Metric]:
        families = {read.name: (read, _family(read)) for read in READ_METRICS}
        for source in self.sources:
            for sample in source():
                read, family = families[sample.name]
                family.add_metric([sample.labels[label] for label in read.labels], sample.value)
        return [family for _, family in families.values()]


def _family(read: Read) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if read.kind == "counter" else GaugeMetricFamily
    return kind(read.name, read.help, labels=read.labels)


class Metrics:
    """The registry of one daemon and the metrics that are counted as things happen. Lives as long as the daemon."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each that nobody documents
        self._reader = _Reader()
        self._shown_version = __version__
        self._reader.sources.append(lambda: [Sample("healthd_build_info", 1, {"version": self._shown_version})])
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._versions = CollectorRegistry()
        PlatformCollector(registry=self._versions)
        GCCollector(registry=self.registry)
        self.registry.register(self._reader)
        self.requests = Counter(
            "healthd_http_requests_total",
            "Answers by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.predict_seconds = Histogram(
            "healthd_predict_seconds",
            "Wall time of one prediction as its camera sees it, its turn included.",
            ("camera",),
            buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.predict_start_age_seconds = Histogram(
            "healthd_predict_start_age_seconds",
            "Age of a frame when its prediction starts.",
            ("camera",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.2, 0.5, 1, 1.5, 2, 5, 10, 30),
            registry=self.registry,
        )
        self.infer_requests = Counter(
            "healthd_infer_requests_total",
            "Pictures that were sent in, by what came of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.decode_seconds = Histogram(
            "healthd_infer_decode_seconds",
            "Wall time of decoding one picture that was sent in.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
            registry=self.registry,
        )
        self.model_wait_seconds = Histogram(
            "healthd_model_wait_seconds",
            "Time from a request's place in the queue of a model to its turn.",
            ("model",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.model_batch_size = Histogram(
            "healthd_model_batch_size",
            "Pictures that a model was given at once; models that take several only.",
            ("model",),
            buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
            registry=self.registry,
        )
        self.send_seconds = Histogram(
            "healthd_stream_send_seconds",
            "Time until a viewer had room for the next part.",
            ("kind",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.camera_decode_seconds = Histogram(
            "healthd_camera_jpeg_decode_seconds",
            "Wall time of making the pixels of a JPEG that a camera sent.",
            ("camera", "outcome"),
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
            registry=self.registry,
        )
        self.encode_seconds = Histogram(
            "healthd_jpeg_encode_seconds",
            "Wall time of one JPEG: decoding where the camera sent one, resize, drawing and encoding.",
            ("camera",),
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
            registry=self.registry,
        )

    def read_from(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Ask `source` for its samples at every scrape. It is called on the event loop and must not wait."""
        self._reader.sources.append(source)

    def decoded(self, camera: str) -> Callable[[float, bool], None]:
        """Return what counts the decoded JPEGs of a camera."""
        fine, broken = (self.camera_decode_seconds.labels(camera, outcome) for outcome in ("ok", "broken"))
        return lambda seconds, ok: (fine if ok else broken).observe(seconds)

    def forget_camera(self, name: str) -> None:
        """Drop the series of a camera that is no longer configured."""
        for histogram in (self.predict_seconds, self.predict_start_age_seconds, self.encode_seconds):
            with contextlib.suppress(KeyError):
                histogram.remove(name)
        for outcome in ("ok", "broken"):
            with contextlib.suppress(KeyError):
                self.camera_decode_seconds.remove(name, outcome)

    def render(self, *, versions: bool = True) -> bytes:
        """Return all metrics as Prometheus text; without `versions`, none of healthd or Python is told."""
        self._shown_version = __version__ if versions else ""
        found = generate_latest(self.registry)
        return found + generate_latest(self._versions) if versions else found


def documented_names() -> tuple[str, ...]:
    """Names of all metrics of healthd itself, as the documentation must list them."""
    counted = (
        "healthd_http_requests_total",
        "healthd_predict_seconds",
        "healthd_predict_start_age_seconds",
        "healthd_jpeg_encode_seconds",
        "healthd_camera_jpeg_decode_seconds",
        "healthd_stream_send_seconds",
        "healthd_model_wait_seconds",
        "healthd_model_batch_size",
        "healthd_infer_requests_total",
        "healthd_infer_decode_seconds",
    )
    return (*(read.name for read in READ_METRICS), *counted)
