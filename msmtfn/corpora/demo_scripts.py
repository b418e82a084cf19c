"""What agents and customers say in the demonstration calls: Mandarin templates with slots, three domains, five intents.

Everything here is invented; no sentence comes from a real call.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from msmtfn.calls.rounds import Speaker

Line = tuple[Speaker, str]

NUM_ROUNDS: Final[dict[str, tuple[int, ...]]] = {"A": (3, 4), "B": (3, 4), "C": (2, 3), "D": (2, 3), "E": (2, 3)}
"""How many rounds a call of each intent may have: who refuses hangs up earlier."""

COMPANIES: Final[dict[str, tuple[str, ...]]] = {
    "dental": ("阳光口腔医院", "康美口腔医院", "晨星牙科"),
    "beauty": ("丽颜美容中心", "花语美容院", "悦容皮肤管理"),
    "courses": ("学而优教育", "启航教育", "明日学堂"),
}
OFFERS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "dental": (("牙齿矫正", "六千八百块"), ("种植牙", "两千八百块"), ("超声波洗牙", "九十八块")),
    "beauty": (("补水护理", "六十八块"), ("光子嫩肤", "五百八十块"), ("祛斑疗程", "一百九十八块")),
    "courses": (("英语口语课", "九百九十块"), ("少儿编程课", "一百二十块"), ("考研辅导班", "一千九百块")),
}
"""A product and its price."""

VISITS: Final[dict[str, tuple[str, ...]]] = {
    "dental": ("免费拍一次片子", "请医生检查一次", "做一次口腔检查"),
    "beauty": ("免费测一次皮肤", "体验一次护理", "请老师看一下肤质"),
    "courses": ("免费试听一节课", "做一次水平测试", "领一套学习资料"),
}
COMMON_SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "surname": ("李", "王", "张", "陈", "周"),
    "day": ("周三", "周五", "周六", "周日"),
    "half": ("上午", "下午"),
}

AGENT_OPENINGS: Final = (
    "您好，我是{company}的小{surname}，想跟您介绍一下我们的{product}。",
    "您好，打扰您一下，这里是{company}，我们的{product}最近有活动。",
    "喂，您好，我姓{surname}，是{company}的顾问，您之前了解过{product}吗？",
)
AGENT_LEAD_INS: Final[dict[str, tuple[str, ...]]] = {
    "A": ("好的，没问题。", "太好了。"),
    "B": ("嗯，您放心。", "是这样的。"),
    "C": ("不好意思，我长话短说。", "就耽误您一分钟。"),
    "D": ("我理解您的意思。", "没关系，您先听一下。"),
    "E": ("哦，是这样。", "那不好意思啊。"),
}
AGENT_PITCHES: Final = (
    "现在{product}只要{price}，这个月底就结束了。",
    "您可以先到店里{visit}，满意了再决定。",
    "我们的{product}很多老客户都选了，效果挺好的。",
    "今天报名的话，{product}可以优惠，只收您{price}。",
)
AGENT_CLOSINGS: Final[dict[str, tuple[str, ...]]] = {
    "A": ("那我帮您约{day}{half}，到时候见。", "我把地址和时间发短信给您，{day}见。"),
    "B": ("那我加您微信，把{product}的资料发给您看看。", "那您先考虑，我{day}再给您打电话。"),
    "C": ("那我先不打扰了，把价格发短信给您。", "好的，您忙，我改天再联系您。"),
    "D": ("好的，那不打扰您了，祝您生活愉快。", "明白了，以后不再给您打电话。"),
    "E": ("哦，那可能是我们登记错了，再见。", "好的，那就不打扰您了，再见。"),
}

CUSTOMER_OPENINGS: Final[dict[str, tuple[str, ...]]] = {
    "A": ("哎，我正想找{product}呢，多少钱？", "对，我一直想了解{product}，你说吧。"),
    "B": ("嗯，你说说看。", "哦，可以先了解一下。"),
    "C": ("你说快一点，我在忙。", "怎么又打电话，什么事？"),
    "D": ("不需要，谢谢。", "我不要{product}，别打了。"),
    "E": ("你找谁啊？我没有登记过。", "喂，你打错了吧。"),
}
CUSTOMER_MIDDLES: Final[dict[str, tuple[str, ...]]] = {
    "A": ("可以啊，{day}有时间吗？", "太好了，我要带什么东西过去？", "行，那你帮我报名吧。"),
    "B": ("听着还行，我再比较一下。", "你们店在哪里？远不远？", "我跟家里人商量一下吧。"),
    "C": ("肯定很贵吧，别家便宜多了。", "行了行了，我现在没时间听。", "你们怎么老是打电话？"),
    "D": ("我说了不需要，不要再说了。", "没兴趣，我已经做过了。", "不用，我真的不考虑。"),
    "E": ("我不是本人，他不在。", "我在外地，早就搬走了。", "这是公司的电话，不是我的。"),
}
CUSTOMER_CLOSINGS: Final[dict[str, tuple[str, ...]]] = {
    "A": ("好，就这么定了，{day}{half}我过去。", "好的好的，我一定去，谢谢你。"),
    "B": ("好，你先发给我看看，谢谢。", "可以，到时候再说吧。"),
    "C": ("随便吧，先这样，挂了。", "发短信就行，别再打了。"),
    "D": ("以后不要打了，再见。", "不要就是不要，挂了。"),
    "E": ("嗯，打错了，再见。", "不知道，我不清楚。"),
}


def write_script(domain: str, intent: str, rng: np.random.Generator) -> list[Line]:
    """One call's lines in order: in each round the agent speaks, then the customer."""
    slots = _fill_slots(domain, rng)
    num_middles = int(rng.choice(NUM_ROUNDS[intent])) - 2
    pitches = rng.permutation(AGENT_PITCHES)[:num_middles]
    middles = rng.permutation(CUSTOMER_MIDDLES[intent])[:num_middles]
    rounds = [
        (_pick(AGENT_OPENINGS, rng), _pick(CUSTOMER_OPENINGS[intent], rng)),
        *((_pick(AGENT_LEAD_INS[intent], rng) + pitch, reply) for pitch, reply in zip(pitches, middles, strict=True)),
        (_pick(AGENT_CLOSINGS[intent], rng), _pick(CUSTOMER_CLOSINGS[intent], rng)),
    ]
    return [line for agent, customer in rounds for line in _round_lines(agent, customer, slots)]


def _fill_slots(domain: str, rng: np.random.Generator) -> dict[str, str]:
    product, price = OFFERS[domain][int(rng.integers(len(OFFERS[domain])))]
    common = {name: _pick(values, rng) for name, values in COMMON_SLOTS.items()}
    own = {"company": _pick(COMPANIES[domain], rng), "product": product, "price": price}
    return common | own | {"visit": _pick(VISITS[domain], rng)}


def _round_lines(agent: str, customer: str, slots: dict[str, str]) -> list[Line]:
    return [("agent", agent.format(**slots)), ("customer", customer.format(**slots))]


def _pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]
