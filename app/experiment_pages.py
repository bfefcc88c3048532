"""The pages of the experiments by the names of their evaluations, in the order in which they are shown."""

from app.experiment_page import Page
from app.experiment_pages_own import ATTRIBUTION_PAGE, COMPARISON_PAGE, NEEDLE_PAGE, STALENESS_PAGE
from app.experiment_pages_paper import EFFICIENCY_PAGE, ICL_PAGE, PERPLEXITY_PAGE, SUFFIX_PAGE

PAGES: dict[str, Page] = {
    "perplexity": PERPLEXITY_PAGE,
    "suffix": SUFFIX_PAGE,
    "icl": ICL_PAGE,
    "needle": NEEDLE_PAGE,
    "staleness": STALENESS_PAGE,
    "efficiency": EFFICIENCY_PAGE,
    "attribution": ATTRIBUTION_PAGE,
    "comparison": COMPARISON_PAGE,
}
