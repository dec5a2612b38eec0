"""What the URoNet paper brings to the pages."""

from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.papers.uronet import overview, page_notes, readings
from uronet_jax.papers.uronet.layouts import URONET_LAYOUTS

URONET_PAGES = PaperPages(
    title="URoNet",
    package="uronet",
    layouts=URONET_LAYOUTS,
    further={
        "Universal models": (
            "universal",
            "universal_corruptions",
            "universal_trials",
            "zero_shot",
        )
    },
    headline=("table7", "Removers of single noises"),
    unjudged="Tables 13 and 14 (the paper names no corruptions, severities and "
    "classifiers)",
    note=page_notes.experiment_note,
    lead=page_notes.beside_single_noises,
    remark=page_notes.steps_of_attacks,
    end=page_notes.noise_footnote_of_page,
    footnote=page_notes.noise_footnote,
    appendices=readings.readings_by_name,
    overview_rows=overview.uronet_rows,
    overview_failures=overview.uronet_failures,
    overview_pictures=overview.uronet_pictures,
)
