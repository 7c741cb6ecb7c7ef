"""Titles of sections that are known: those of clinical notes, and those of articles that `corpus stats` may show.

A title that is not known may be anything, in a note a patient's name too: a line of capitals is a title only if it stands here, and no
other title is printed or counted by name. The list follows the headings of MIMIC's discharge summaries and reports, of visit notes, and
LOINC's names of document sections. The headings of a plan by problems are titles before a colon only: `CAD` alone is a diagnosis.
"""


def _listed(lines: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in lines.split("|"))


NOTE_TITLES = _listed(
    """abdomen|abdominal|abdominal exam|activity|addendum|admission date|admission diagnosis|admission labs|admission medications|
    advance directives|allergies|allergy|anesthesia|assessment|assessment and plan|assessment & plan|assessment/plan|attending|
    attending physician|back|birth history|blood pressure|bp|brief hospital course|cardiac|cardiovascular|cbc|cc|chest|
    chief complaint|clinical history|clinical impression|clinical indication|code status|comments|comparison|complications|
    conclusion|conclusions|condition|condition on discharge|constitutional|consults|consultations|contrast|
    course in hospital|current medications|cv|date of birth|date of service|detailed exam|diagnosis|diagnoses|
    diagnostic impression|diet|discharge condition|discharge date|discharge diagnosis|discharge diagnoses|discharge disposition|
    discharge exam|discharge instructions|discharge labs|discharge medications|discharge plan|discharge summary|disposition|ear|
    ears|ecg|echo|echocardiogram|ed course|ekg|emergency department course|endocrine|ent|exam|examination|extremities|eyes|
    facility|family history|fh|final diagnosis|final impression|final report|findings|followup|follow up|follow-up|
    followup instructions|follow up instructions|follow-up instructions|functional status|gait|gastrointestinal|general|
    general appearance|genitourinary|gi|gi/gu|gu|gynecologic history|habits|head|heart|heent|hematologic|hematology|
    hent|history|history of past illness|history of present illness|history of the present illness|home medications|
    hospital course|hospital course by problem|hpi|hr|illness severity|imaging|imaging studies|immunization history|immunizations|
    impression|
    impressions|impression and plan|indication|indications|indications for procedure|infectious disease|instructions|integumentary|
    interpretation|interval history|intraoperative findings|lab results|laboratory|laboratory data|laboratory results|labs|
    laboratory studies|lungs|lymphatic|lymph nodes|major surgical or invasive procedure|mdm|medical condition|medical decision making|
    medical history|medication|medications|medications on admission|medications on discharge|medications on transfer|
    mental status|mental status exam|microbiology|mouth|msk|musculoskeletal|musculoskeletal exam|narrative|neck|neuro|neurologic|
    neurological|neurologic exam|neurological exam|nose|note|nursing assessment|nutrition|objective|obstetric history|on admission|
    on discharge|operation|operation performed|operative findings|operative procedure|orders|other|other findings|otc|pain assessment|
    past family history|
    past history|past medical history|past obstetric history|past psychiatric history|past surgical history|pathology|
    patient instructions|
    pe|pelvic|pertinent results|pft|physical exam|physical examination|physical exam on admission|physical exam on discharge|
    physical therapy|plan|plan of care|pmh|postoperative diagnosis|postoperative plan|preliminary report|preoperative diagnosis|
    prescriptions|present illness|primary diagnosis|problem list|problems|procedure|procedure in detail|procedures|
    procedures performed|prognosis|progress|progress note|provisional diagnosis|psh|psychiatric|psychological|pulmonary|pulses|
    radiology|reason for admission|reason for consultation|reason for consult|reason for examination|reason for this examination|
    reason for exam|reason for referral|reason for visit|recommendation|recommendations|rectal|referral|renal|report|respiratory|
    response|results|review of symptoms|review of systems|risk factors|ros|rr|secondary diagnoses|secondary diagnosis|service|sex history|
    sexual history|sh|skin|sleep|social|social history|spo2|studies|study|subjective|substance use|summary|surgical history|technique|
    temperature|test results|throat|transitional issues|treatment|treatment plan|triage|urinalysis|vital signs|vitals|vitals reviewed|
    weight|wet read|work history|wound care|x-ray|xray"""
)
PROBLEM_TITLES = _listed(
    """access|afib|anemia|asthma|cad|chf|ckd|comm|communication|copd|delirium|diabetes|dispo|dm|dm2|dvt|esrd|fen|fever|gerd|heme|hiv|
    hld|htn|hyperlipidemia|hypertension|hypothyroidism|id|leukocytosis|lines|pneumonia|ppx|prophylaxis|pulm|sepsis|uti"""
)
ARTICLE_TITLES = _listed(
    """abbreviations|abstract|acknowledgements|additional file|aim|aims|analysis|appendix|background|body|case|case description|
    case presentation|case report|
    clinical implications|conclusion|conclusions|context|contributions|data|design|discussion|ethics|experimental|
    experimental procedures|figure|figures|findings|floats|funding|future directions|highlights|importance|interpretation|intervention|
    interventions|introduction|keywords|limitations|main|main outcome measures|main text|material and methods|materials|
    materials and methods|measurements|method|methods|methods and materials|objective|objectives|other abstract|outcomes|participants|
    patients and methods|
    purpose|related work|results|results and discussion|setting|significance|statistical analysis|study design|
    study population|subjects and methods|summary|supplementary material|table|tables|text|title|translated abstract|vernacular title"""
)
UNKNOWN = "other titles"


def listed_title(title: str) -> str:
    """Return a title in the spelling of its list, so that it can be shown; `other titles` where no list has it."""
    name = " ".join(title.split()).rstrip(":.").lower()
    return name.capitalize() if name in NOTE_TITLES | PROBLEM_TITLES or name in ARTICLE_TITLES else UNKNOWN
